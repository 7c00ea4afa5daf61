//! What kind of file a descriptor stands for.

use std::os::fd::RawFd;

/// What a descriptor is, as far as waiting is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It does not wait for anybody: a regular file, a directory, a disk, a device without a
    /// device; or a number that is not open.
    Straight,
    /// A pipe or a FIFO.
    Pipe,
    /// A socket.
    Socket,
    /// A terminal, a pseudo-terminal's master.
    Terminal,
    /// Other devices, and the kernel's objects that have a descriptor.
    Other,
}

/// The major number of `/dev/null`, `/dev/zero`, `/dev/random` and the like.
const MEMORY_DEVICES: u32 = 1;

/// One system call; two for devices.
pub fn kind_of(fd: RawFd) -> Kind {
    // SAFETY: an all-zero `stat` is valid, and the call fills it in.
    let status = unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &mut status) < 0 {
            return Kind::Straight;
        }
        status
    };
    match status.st_mode & libc::S_IFMT {
        libc::S_IFIFO => Kind::Pipe,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => Kind::Straight,
        libc::S_IFCHR if libc::major(status.st_rdev) as u32 == MEMORY_DEVICES => Kind::Straight,
        // SAFETY: takes a number only.
        libc::S_IFCHR if unsafe { libc::isatty(fd) } == 1 => Kind::Terminal,
        _ => Kind::Other,
    }
}
