//! One operation by its own system call, on the calling thread, and what to ask before.

use std::io;
use std::os::fd::RawFd;

use super::forbidden;
use crate::tasks::{flags, IOAction, Memory, Op};

/// A boundary that block devices accept direct I/O at, but for those with blocks above a page.
pub(crate) const DIRECT_BOUNDARY: u64 = 4096;

/// Runs the operation on a thread of the program's and returns what the system call did: bytes, or
/// a negated errno.
pub(crate) fn run(op: &Op) -> i64 {
    let _guard = op.action.may_extend().then(FileSizeSignal::hold);
    perform(op)
}

/// As [`run`], on a thread that keeps SIGXFSZ blocked.
pub(crate) fn perform(op: &Op) -> i64 {
    if op.flags & flags::HIPRI != 0 {
        // The kernel takes it, and leaves that out wherever it cannot poll.
        return -i64::from(libc::EOPNOTSUPP);
    }
    match Priority::hold(op.priority) {
        Ok(_held) => call(op),
        Err(errno) => -i64::from(errno),
    }
}

fn call(op: &Op) -> i64 {
    #[cfg(any(test, fuzzing))]
    if let Some(result) = super::sim::run(op) {
        return result;
    }
    let (offset, len) = (op.offset as libc::off_t, op.len as libc::off_t);
    // SAFETY: the kernel checks descriptor and memory; their validity is the submitter's promise
    // until the event completes.
    let result = unsafe {
        match (op.action, op.memory) {
            (IOAction::Read, Memory::Plain(at)) if op.flags == 0 => {
                libc::pread(op.fd, at.cast(), op.len as usize, offset)
            }
            (IOAction::Write, Memory::Plain(at)) if op.flags == 0 => {
                libc::pwrite(op.fd, at.cast(), op.len as usize, offset)
            }
            (IOAction::Read, Memory::Segments(at, count)) if op.flags == 0 => {
                libc::preadv(op.fd, at, count as i32, offset)
            }
            (IOAction::Write, Memory::Segments(at, count)) if op.flags == 0 => {
                libc::pwritev(op.fd, at, count as i32, offset)
            }
            (IOAction::Read | IOAction::Write, _) => transfer(op, op.flags as i32),
            (IOAction::Fsync, _) => libc::fsync(op.fd) as isize,
            (IOAction::Fdatasync, _) => libc::fdatasync(op.fd) as isize,
            (IOAction::Fallocate(mode), _) => libc::fallocate(op.fd, mode, offset, len) as isize,
            (IOAction::SyncRange(flags), _) => {
                libc::sync_file_range(op.fd, offset, len, flags) as isize
            }
            (IOAction::Truncate, _) => libc::ftruncate(op.fd, len) as isize,
            // It returns an errno, and leaves the thread's alone.
            (IOAction::Advise(advice), _) => {
                return -i64::from(libc::posix_fadvise(op.fd, offset, len, advice));
            }
        }
    };
    match result {
        -1 => -i64::from(match last_errno() {
            // The system call came with the first of the flags (Linux 4.6).
            libc::ENOSYS if op.flags != 0 => libc::EOPNOTSUPP,
            errno => errno,
        }),
        result => result as i64,
    }
}

/// A transfer by preadv2(2) or pwritev2(2).
fn transfer(op: &Op, flags: i32) -> isize {
    let one;
    let (at, count) = match op.memory {
        Memory::None => (std::ptr::null(), 0),
        Memory::Plain(at) => {
            one = libc::iovec { iov_base: at.cast(), iov_len: op.len as usize };
            (&raw const one, 1)
        }
        Memory::Segments(at, count) => (at, count as i32),
    };
    let offset = op.offset as libc::off_t;
    // SAFETY: as in `call`; a single segment lives until the end.
    unsafe {
        match op.action {
            IOAction::Read => libc::preadv2(op.fd, at, count, offset, flags),
            _ => libc::pwritev2(op.fd, at, count, offset, flags),
        }
    }
}

/// Whether [`read_at_once`] is for this operation, where its descriptor is not direct.
pub(crate) fn may_be_at_once(op: &Op) -> bool {
    op.action == IOAction::Read && op.flags == 0 && op.priority == 0
}

/// Reads what needs no waiting (RWF_NOWAIT of preadv2(2), Linux 4.14): bytes, or the errno, EAGAIN
/// where that is nothing.
pub(crate) fn read_at_once(op: &Op) -> Result<i64, i32> {
    match transfer(op, libc::RWF_NOWAIT) {
        -1 => Err(last_errno()),
        // That need not be the end of the file (readv(2), BUGS: Linux 5.9 and 5.10).
        0 => Err(libc::EAGAIN),
        read => Ok(read as i64),
    }
}

/// While it lives, the calling thread has another I/O priority (ioprio_set(2)).
struct Priority {
    before: libc::c_long,
}

/// The calling thread, to ioprio_get(2) and ioprio_set(2).
const THREAD: (libc::c_int, libc::c_int) = (1, 0);

/// Lower than any priority that has a class.
const PRIORITY_CLASSES: libc::c_long = 1 << 13;

impl Priority {
    /// Fails with the errno of ioprio_set(2); `None` for no priority.
    fn hold(priority: u16) -> Result<Option<Self>, i32> {
        if priority == 0 {
            return Ok(None);
        }
        // SAFETY: no pointers.
        unsafe {
            let before = libc::syscall(libc::SYS_ioprio_get, THREAD.0, THREAD.1);
            // Without a class there is none, whatever the level: older kernels tell one, and refuse it.
            let before = if before < PRIORITY_CLASSES { 0 } else { before };
            match libc::syscall(
                libc::SYS_ioprio_set,
                THREAD.0,
                THREAD.1,
                libc::c_int::from(priority),
            ) {
                0 => Ok(Some(Priority { before })),
                _ => Err(last_errno()),
            }
        }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { libc::syscall(libc::SYS_ioprio_set, THREAD.0, THREAD.1, self.before) };
    }
}

/// How a descriptor was opened (F_GETFL of fcntl(2)); negative where it is none.
pub(crate) fn status_flags(fd: RawFd) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }
}

/// Whether the descriptor was opened with O_DIRECT. One that is none counts as such: whoever gets
/// it next has the right errno for it.
pub(crate) fn is_direct(fd: RawFd) -> bool {
    let flags = status_flags(fd);
    flags < 0 || flags & libc::O_DIRECT != 0
}

/// What is known of descriptors, so that one system call answers for all operations that are handed
/// over together: these are in flight together, so that one number is one file.
#[derive(Default)]
pub(crate) struct Known {
    files: [KnownFile; KNOWN_FILES],
    turn: u64,
}

/// Descriptors that are known at the same time, by the last bits of their numbers.
const KNOWN_FILES: usize = 16;

#[derive(Clone, Copy, Default)]
struct KnownFile {
    /// That of the answer, counted from 1.
    turn: u64,
    fd: RawFd,
    direct: bool,
    /// Reads that are not tried at once any more: the file cannot tell what would wait.
    skips: u32,
}

/// How long that is believed, in reads: the number may be another file's since.
const SKIPS: u32 = 256;

impl Known {
    /// Whether the descriptor is direct; `ask` where that is not known.
    pub(crate) fn is_direct(&mut self, fd: RawFd, ask: impl FnOnce() -> bool) -> bool {
        let turn = self.turn + 1;
        let file = self.file(fd);
        if file.fd != fd || file.turn != turn {
            let skips = if file.fd == fd { file.skips } else { 0 };
            *file = KnownFile { turn, fd, direct: ask(), skips };
        }
        file.direct
    }

    /// Whether to try to read at once from a descriptor that was asked about; to be called for each
    /// read.
    pub(crate) fn tries(&mut self, fd: RawFd) -> bool {
        let file = self.file(fd);
        let tries = file.skips == 0;
        file.skips = file.skips.saturating_sub(1);
        tries
    }

    /// Reading at once failed with this errno.
    pub(crate) fn refused(&mut self, fd: RawFd, errno: i32) {
        if errno == libc::EOPNOTSUPP || forbidden(errno) {
            self.file(fd).skips = SKIPS;
        }
    }

    /// What is asked about next may be other files.
    pub(crate) fn forget(&mut self) {
        self.turn += 1;
    }

    fn file(&mut self, fd: RawFd) -> &mut KnownFile {
        &mut self.files[fd as usize % KNOWN_FILES]
    }
}

/// What offset, length and memory of direct I/O have to be multiples of (STATX_DIOALIGN of statx(2),
/// Linux 6.1), where the file system tells.
pub(crate) fn direct_boundary(fd: RawFd) -> Option<u64> {
    // SAFETY: plain data filled by the call, which is given valid pointers.
    unsafe {
        let mut answer: libc::statx = std::mem::zeroed();
        let mask = libc::STATX_DIOALIGN;
        // No server is asked.
        let how = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
        let known = libc::statx(fd, c"".as_ptr(), how, mask, &mut answer) == 0
            && answer.stx_mask & mask != 0
            && answer.stx_dio_offset_align > 0;
        let boundary = answer.stx_dio_offset_align.max(answer.stx_dio_mem_align);
        known.then_some(boundary.into())
    }
}

pub(crate) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// getrlimit(2) of RLIMIT_FSIZE. The C library asks prlimit(2), which takes more than twice as long
/// as the call that these processors have; the kernel's struct is the same there.
///
/// # Safety
/// `limit` is writable.
unsafe fn file_size_limit(limit: *mut libc::rlimit) -> libc::c_long {
    #[cfg(all(
        target_pointer_width = "64",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    // SAFETY: by the caller's promise.
    return unsafe { libc::syscall(libc::SYS_getrlimit, libc::RLIMIT_FSIZE, limit) };
    #[cfg(not(all(
        target_pointer_width = "64",
        any(target_arch = "x86_64", target_arch = "aarch64")
    )))]
    // SAFETY: by the caller's promise.
    return unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, limit) }.into();
}

/// While it lives, keeps the SIGXFSZ of a write or an allocation beyond RLIMIT_FSIZE from the
/// program: it gets EFBIG, as on the engine's threads, which block the signal. Without such a limit
/// it costs one getrlimit(2).
pub(crate) struct FileSizeSignal {
    mask_before: libc::sigset_t,
    pending_before: bool,
}

impl FileSizeSignal {
    pub(crate) fn hold() -> Option<Self> {
        // SAFETY: plain data filled by the calls; each is given valid pointers.
        unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            let known = file_size_limit(&mut limit) == 0;
            if known && limit.rlim_cur == libc::RLIM_INFINITY {
                return None;
            }
            let mut mask_before: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, &Self::set(), &mut mask_before);
            let mut pending: libc::sigset_t = std::mem::zeroed();
            libc::sigpending(&mut pending);
            let pending_before = libc::sigismember(&pending, libc::SIGXFSZ) == 1;
            Some(FileSizeSignal { mask_before, pending_before })
        }
    }

    fn set() -> libc::sigset_t {
        // SAFETY: an all-zero set is valid to initialise.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGXFSZ);
            set
        }
    }
}

impl Drop for FileSizeSignal {
    fn drop(&mut self) {
        // SAFETY: valid pointers; the signal, where the write raised it, is pending for this
        // thread alone and is taken before it could be delivered.
        unsafe {
            if !self.pending_before {
                let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                libc::sigtimedwait(&Self::set(), std::ptr::null_mut(), &at_once);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask_before, std::ptr::null_mut());
        }
    }
}
