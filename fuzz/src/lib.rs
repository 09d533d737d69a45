//! Shared code of the fuzz targets: a folder for files, and an allocator that limits memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// The maximum number of bytes allocated at one time. A larger request fails. If the reader can handle that, it returns
/// an error; otherwise the process ends, which counts as a finding.
const MEMORY: usize = 768 << 20;

struct Bounded;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

// SAFETY: every call is passed to the system's allocator, or returns the null pointer that signals a lack of memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn take(bytes: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    if TAKEN.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= MEMORY {
        let pointer = allocate();
        if !pointer.is_null() {
            return pointer;
        }
    }
    TAKEN.fetch_sub(bytes, Ordering::Relaxed);
    std::ptr::null_mut()
}

/// The folder of this process, in memory if the system provides such a place.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let make = || {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        tempfile::Builder::new().prefix("multidigit-fuzz-").tempdir_in(parent).expect("a temporary folder")
    };
    FOLDER.get_or_init(make).path()
}

/// Writes a file with these bytes to the folder of this process.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    path
}
