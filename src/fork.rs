//! Noticing that this process is a forked child. A page that the kernel wipes on fork
//! (MADV_WIPEONFORK, Linux 4.14) tells, without a lock and without pthread_atfork.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use once_cell::sync::OnceCell;

/// Identifies a process in a line of forks; 0 is never one.
pub(crate) type Generation = u64;

/// The last generation given out. Children inherit it, so theirs are new.
static LAST: AtomicU64 = AtomicU64::new(0);
static PAGE: OnceCell<&'static AtomicU64> = OnceCell::new();

/// Where the kernel refuses the page, every process looks like the first: forks go unnoticed.
fn page() -> &'static AtomicU64 {
    PAGE.get_or_init(|| {
        static FALLBACK: AtomicU64 = AtomicU64::new(0);
        let len = page_size();
        // SAFETY: an anonymous mapping of our own, zeroed, page-aligned and never unmapped.
        unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if at == libc::MAP_FAILED {
                return &FALLBACK;
            }
            if libc::madvise(at, len, libc::MADV_WIPEONFORK) != 0 {
                libc::munmap(at, len);
                return &FALLBACK;
            }
            &*at.cast::<AtomicU64>()
        }
    })
}

/// The generation of the running process. What was made under another belongs to an ancestor.
pub(crate) fn generation() -> Generation {
    let page = page();
    let now = page.load(SeqCst);
    if now != 0 {
        return now;
    }
    let fresh = LAST.fetch_add(1, SeqCst) + 1;
    match page.compare_exchange(0, fresh, SeqCst, SeqCst) {
        Ok(_) => fresh,
        Err(winner) => winner,
    }
}

/// Fails with `EOWNERDEAD` where that is an ancestor's.
#[inline]
pub(crate) fn check(made_in: Generation) -> Result<(), i32> {
    match made_in == generation() {
        true => Ok(()),
        false => Err(libc::EOWNERDEAD),
    }
}

pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
