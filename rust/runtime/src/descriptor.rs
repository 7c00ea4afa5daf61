//! Which life of a file descriptor number is meant.
//!
//! The kernel hands out the number of a closed descriptor again at once, and a socket can be closed
//! where the reactor does not see it (by a finalizer, by another OS thread). Each number therefore
//! has a generation, advanced whenever a new owner takes the number and when it is closed. What is
//! remembered about a descriptor carries the generation it was learnt in and is void in the next.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const CHUNK: usize = 4096;
const CHUNKS: usize = 1024;

type Chunk = Box<[AtomicU32; CHUNK]>;

static GENERATIONS: [OnceLock<Chunk>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

fn slot(fd: RawFd) -> &'static AtomicU32 {
    // Numbers beyond the table share slots. Sharing is harmless: a generation advanced for another
    // number's sake only makes the reactor register a descriptor again.
    let index = fd as usize % (CHUNK * CHUNKS);
    let chunk =
        GENERATIONS[index / CHUNK].get_or_init(|| Box::new([const { AtomicU32::new(0) }; CHUNK]));
    &chunk[index % CHUNK]
}

/// The present generation of `fd`. Thread-safe, wait-free.
#[inline]
pub fn generation(fd: RawFd) -> u32 {
    slot(fd).load(Ordering::Acquire)
}

/// Declares everything learnt about `fd` void: it has a new owner, or none. Thread-safe.
#[inline]
pub fn renew(fd: RawFd) -> u32 {
    slot(fd).fetch_add(1, Ordering::AcqRel).wrapping_add(1)
}
