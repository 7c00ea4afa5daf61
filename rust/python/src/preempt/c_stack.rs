//! Whether a task can be left, by what it does in C.
//!
//! While a C extension waits for a callback in Python to return, it may keep something for the OS
//! thread (a pointer into its own stack in a thread-local variable, a lock), counting on the callback
//! being all that this thread does meanwhile. One that blocks is asked for by the program; one that
//! computes must not be left for others who may call the same extension. The interpreter itself, the
//! standard library's extensions and we count on no such thing.

use std::os::raw::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use pyo3::ffi;

use crate::run_loop;

#[repr(C)]
struct Context {
    _opaque: [u8; 0],
}

type Callback = extern "C" fn(*mut Context, *mut c_void) -> c_int;

// Rust's own standard library is linked with what has these, for its panics.
unsafe extern "C" {
    fn _Unwind_Backtrace(callback: Callback, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut Context) -> usize;
    fn _Unwind_FindEnclosingFunction(at: *mut c_void) -> *mut c_void;
}

/// Go on with the caller.
const GO_ON: c_int = 0;
/// Whatever is not 0 ends it.
const STOP: c_int = 4;

/// A task that is so deep in C is not left: it would take long to find out.
const DEEPEST: usize = 5000;

/// A part of the address space.
#[derive(Clone, Copy)]
struct Range {
    first: usize,
    last: usize,
    is_known: bool,
    is_own: bool,
}

/// What is loaded where, as far as has been asked for. What was unloaded since is nobody's caller.
static LOADED: Mutex<Vec<Range>> = Mutex::new(Vec::new());

struct Walk {
    depth: usize,
    /// The base of the stack that the task runs on was reached, with nothing in between that counts.
    has_arrived: bool,
}

/// Whether everything between here and the base of the running stack is the interpreter's or ours.
pub fn is_the_interpreters() -> bool {
    let mut walk = Walk {
        depth: 0,
        has_arrived: false,
    };
    // SAFETY: the callback has the type that is expected, and `walk` outlives the call. It stops where
    // our stack begins: what lies beyond may be another greenlet's.
    unsafe { _Unwind_Backtrace(step, (&raw mut walk).cast()) };
    walk.has_arrived
}

extern "C" fn step(context: *mut Context, walk: *mut c_void) -> c_int {
    // SAFETY: `is_the_interpreters` passes it, and the unwinder a valid context.
    let (walk, at) = unsafe { (&mut *walk.cast::<Walk>(), _Unwind_GetIP(context)) };
    walk.depth += 1;
    let Some(range) = range_of(at) else {
        return STOP;
    };
    if !range.is_known || walk.depth > DEEPEST {
        return STOP;
    }
    if range.is_own {
        // SAFETY: takes any address in code.
        let function = unsafe { _Unwind_FindEnclosingFunction(at as *mut c_void) };
        if function as usize == run_loop::stack_address() {
            walk.has_arrived = true;
            return STOP;
        }
    }
    GO_ON
}

fn range_of(at: usize) -> Option<Range> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let find = |loaded: &[Range]| {
        let contains = |range: &&Range| range.first <= at && at <= range.last;
        loaded.iter().find(contains).copied()
    };
    find(&loaded).or_else(|| {
        loaded.clear();
        // SAFETY: the callback has the type that is expected; the list outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut *loaded).cast()) };
        find(&loaded)
    })
}

/// Notes where an executable or a library is loaded.
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    loaded: *mut c_void,
) -> c_int {
    // SAFETY: `range_of` passes the list; what the loader passes is valid during the call.
    let (info, loaded) = unsafe { (&*info, &mut *loaded.cast::<Vec<Range>>()) };
    let interpreter = ffi::PyObject_Call as *const () as usize;
    let own = note as *const () as usize;
    // SAFETY: as above.
    let name = unsafe { std::ffi::CStr::from_ptr(info.dlpi_name) };
    let is_standard = name
        .to_bytes()
        .windows(13)
        .any(|part| part == b"/lib-dynload/");
    let first = loaded.len();
    for index in 0..info.dlpi_phnum {
        // SAFETY: as above: there are so many headers.
        let header = unsafe { &*info.dlpi_phdr.add(index.into()) };
        if header.p_type == libc::PT_LOAD {
            let start = (info.dlpi_addr + header.p_vaddr) as usize;
            loaded.push(Range {
                first: start,
                last: start + header.p_memsz as usize,
                is_known: is_standard,
                is_own: false,
            });
        }
    }
    let parts = &mut loaded[first..];
    for (address, is_own) in [(interpreter, false), (own, true)] {
        if parts
            .iter()
            .any(|part| part.first <= address && address <= part.last)
        {
            for part in &mut *parts {
                part.is_known = true;
                part.is_own |= is_own;
            }
        }
    }
    0
}
