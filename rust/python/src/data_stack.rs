//! Keeps the interpreter's data-stack chunks for the next greenlet.
//!
//! Since CPython 3.11 every new greenlet's first Python frame maps a chunk of 16 KiB, and unmaps it
//! at its end; nine tenths of what a short-lived greenlet costs is that. The interpreter takes the
//! chunks from its arena allocator, which may be replaced: ours keeps some freed chunks of that
//! size and passes everything else on. A kept chunk came from the original allocator, so either
//! allocator may free it.

use std::os::raw::c_void;
use std::sync::Mutex;

const CHUNK: usize = 16 * 1024;
const KEPT_AT_MOST: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct ArenaAllocator {
    ctx: *mut c_void,
    alloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

unsafe extern "C" {
    fn PyObject_GetArenaAllocator(allocator: *mut ArenaAllocator);
    fn PyObject_SetArenaAllocator(allocator: *mut ArenaAllocator);
}

struct Cache {
    original: Option<ArenaAllocator>,
    chunks: Vec<*mut c_void>,
}

// SAFETY: the pointers are memory nobody else refers to; the mutex serialises access.
unsafe impl Send for Cache {}

static CACHE: Mutex<Cache> = Mutex::new(Cache {
    original: None,
    chunks: Vec::new(),
});

fn original(cache: &Cache) -> ArenaAllocator {
    cache
        .original
        .expect("the allocator is only installed after the original was saved")
}

unsafe extern "C" fn alloc(_ctx: *mut c_void, size: usize) -> *mut c_void {
    let Ok(mut cache) = CACHE.lock() else {
        return std::ptr::null_mut();
    };
    if size == CHUNK
        && let Some(chunk) = cache.chunks.pop()
    {
        return chunk;
    }
    let next = original(&cache);
    drop(cache);
    // SAFETY: the original allocator, called as the interpreter would.
    unsafe { (next.alloc)(next.ctx, size) }
}

unsafe extern "C" fn free(_ctx: *mut c_void, memory: *mut c_void, size: usize) {
    let Ok(mut cache) = CACHE.lock() else {
        return;
    };
    if size == CHUNK && cache.chunks.len() < KEPT_AT_MOST {
        cache.chunks.push(memory);
        return;
    }
    let next = original(&cache);
    drop(cache);
    // SAFETY: the memory came from the original allocator, at whichever time.
    unsafe { (next.free)(next.ctx, memory, size) }
}

/// Installs the cache. Called once, with the interpreter attached.
pub fn install() {
    let Ok(mut cache) = CACHE.lock() else { return };
    if cache.original.is_some() {
        return;
    }
    let mut allocator = std::mem::MaybeUninit::<ArenaAllocator>::uninit();
    // SAFETY: the function fills the struct, whose layout is the documented `PyObjectArenaAllocator`.
    let allocator = unsafe {
        PyObject_GetArenaAllocator(allocator.as_mut_ptr());
        allocator.assume_init()
    };
    cache.original = Some(allocator);
    drop(cache);
    let mut ours = ArenaAllocator {
        ctx: std::ptr::null_mut(),
        alloc,
        free,
    };
    // SAFETY: the struct is copied; the functions live as long as the process, since an extension
    // module is never unloaded.
    unsafe { PyObject_SetArenaAllocator(&mut ours) };
}
