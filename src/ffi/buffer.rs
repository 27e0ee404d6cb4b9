//! Memory for direct I/O.

use std::os::raw::c_void;
use std::ptr::NonNull;

use super::guard;
use crate::buffer;

/// Allocates memory that direct I/O can use, O_DIRECT of open(2). It has `len` zeroed bytes,
/// aligned to `align`, a power of two, and to the page in any case; 0 for `align` means the page.
/// Kept out of forked children. Release it with `ioe_buffer_free`. Any thread.
///
/// Each buffer is a mapping of its own and takes one page more than it holds: make few large ones
/// and divide them (sysctl vm.max_map_count bounds their number).
///
/// Returns the memory; NULL where `len` is 0, `align` is no power of two, or memory is short.
///
/// ```c
/// char *pool = (char *)ioe_buffer_alloc(64 * len, 4096);
/// for (size_t i = 0; pool != NULL && i < n && i < 64; i++)
///     ioe_prep_read(events[i], fd, pool + i * len, len, i * len);
/// ```
#[no_mangle]
pub extern "C" fn ioe_buffer_alloc(len: usize, align: usize) -> *mut c_void {
    guard(|| buffer::alloc(len, align).map_or(std::ptr::null_mut(), |block| block.as_ptr().cast()))
}

/// Releases a buffer of `ioe_buffer_alloc`. Once, when no event in flight uses it. NULL is fine. In
/// a forked child it does nothing. Any thread.
///
/// # Safety
/// `buf` is NULL or came from `ioe_buffer_alloc` and was not released.
#[no_mangle]
pub unsafe extern "C" fn ioe_buffer_free(buf: *mut c_void) {
    guard(|| {
        if let Some(block) = NonNull::new(buf.cast::<u8>()) {
            // SAFETY: by the caller's promise.
            unsafe { buffer::free(block) }
        }
    })
}
