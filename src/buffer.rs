//! Memory for direct I/O: aligned, zeroed, kept out of forked children. In front of each block
//! lies one header page that a child does inherit; it says how to free the block and whose it is.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use crate::fork;

struct Header {
    generation: fork::Generation,
    /// The whole mapping, header included.
    base: *mut libc::c_void,
    len: usize,
}

/// Maps `len` zeroed bytes aligned to `align` (a power of two; 0 means the page size). `None`
/// where the request makes no sense or the kernel has no memory.
pub(crate) fn alloc(len: usize, align: usize) -> Option<NonNull<u8>> {
    let page = fork::page_size();
    let align = if align == 0 { page } else { align };
    if len == 0 || len > isize::MAX as usize || !align.is_power_of_two() {
        return None;
    }
    let align = align.max(page);
    let body = len.checked_next_multiple_of(page)?;
    // Room for the header page and for moving the block up to its alignment.
    let total = body.checked_add(align)?;
    // SAFETY: an anonymous mapping of our own.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            total,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return None;
    }
    let first = base as usize + page;
    let block = first.next_multiple_of(align) as *mut u8;
    // SAFETY: block lies at least a page above base and `body` bytes below the end: base is
    // page-aligned, so moving up to `align` takes at most `align - page` more.
    unsafe {
        let header = Header { generation: fork::generation(), base, len: total };
        block.sub(page).cast::<Header>().write(header);
        if libc::madvise(block.cast(), body, libc::MADV_DONTFORK) != 0 {
            libc::munmap(base, total);
            return None;
        }
    }
    NonNull::new(block)
}

/// Unmaps a block. In a forked child it does nothing: the block is not there.
///
/// # Safety
/// `block` came from [`alloc`] and is not used again.
pub(crate) unsafe fn free(block: NonNull<u8>) {
    // SAFETY: the header lies one page in front of every block, in children too.
    unsafe {
        let header = block.as_ptr().sub(fork::page_size()).cast::<Header>().read();
        if header.generation == fork::generation() {
            libc::munmap(header.base, header.len);
        }
    }
}

/// Memory for one transfer: owned and aligned for O_DIRECT, or borrowed from the caller.
#[derive(Debug)]
pub struct Buffer {
    at: NonNull<u8>,
    len: usize,
    owned: bool,
}

// SAFETY: a buffer is plain memory with one owner; borrowed memory is covered by `from_raw`.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeroed bytes at a page boundary. Fails with `ENOMEM`, or `EINVAL` for a `len` of 0.
    pub fn aligned(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let at = alloc(len, 0).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Buffer { at, len, owned: true })
    }

    /// Memory that somebody else owns.
    ///
    /// # Safety
    /// The `len` bytes at `at` stay valid, and are touched by nobody else, while the buffer lives.
    pub unsafe fn from_raw(at: NonNull<u8>, len: usize) -> Self {
        Buffer { at, len, owned: false }
    }

    /// Shortens the buffer to its first `len` bytes; longer ones are left as they are.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes at `at` are initialised and ours for as long as the buffer lives.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the exclusive borrow makes it the only view.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: owned buffers come from `alloc`, and this is the last use.
            unsafe { free(self.at) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_zeroed_and_writable_to_the_last_byte() {
        for (len, align) in
            [(1, 0), (4096, 512), (4097, 4096), (100_000, 2 << 20), (3 << 20, 65536)]
        {
            let block = alloc(len, align).unwrap();
            assert_eq!(block.as_ptr() as usize % align.max(fork::page_size()), 0);
            // SAFETY: the block has `len` bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), len) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xa5);
            // SAFETY: allocated above, not used again.
            unsafe { free(block) }
        }
    }

    #[test]
    fn senseless_requests_are_refused() {
        for (len, align) in [(0, 0), (1, 3), (usize::MAX, 0), (1 << 62, 0), (1, 1 << 63)] {
            assert!(alloc(len, align).is_none(), "{len} {align}");
        }
        assert!(Buffer::aligned(0).is_err());
    }
}
