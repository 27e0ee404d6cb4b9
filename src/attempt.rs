//! What the result of an operation means: for its event, or for each of those that travelled in it.

use std::num::NonZeroU64;

use crate::clock;
use crate::driver::direct::DIRECT_BOUNDARY;
use crate::log::{log, Level};
use crate::merge;
use crate::stats::Counters;
use crate::tasks::{flags, IOAction, IOEvent, Op};

/// How often in a row an operation that made no progress is retried on EINTR or EAGAIN.
const MAX_RETRIES: u32 = 100;

/// The errors of a joined write that may be one member's alone.
const MEMBERS_OWN: [i32; 5] = [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EINVAL];

/// How far the engine is with the current operation of an event.
#[derive(Default)]
pub(crate) struct Attempt {
    /// Bytes the operation was asked to move, and how.
    asked: u64,
    flags: u32,
    retries: u32,
    /// The operation before this one came back short.
    short: bool,
    /// Where the transfer was when it was set back to a boundary: beyond it.
    set_back: Option<NonZeroU64>,
}

/// How an event ends whose operations ended with this result: one that was cancelled, or whose time
/// is up, is not whole. What is no transfer and came to its end has its own error all the same.
pub(crate) fn outcome<C>(event: &IOEvent<C>, result: i64) -> i64 {
    if result >= 0 {
        return result;
    }
    let transfer = event.is_transfer();
    let ending = event.ending(clock::now).filter(|_| gave_back(result) || transfer);
    ending.map_or(result, |errno| -i64::from(errno))
}

/// Whether the kernel gave an operation back that was asked for.
pub(crate) fn gave_back(result: i64) -> bool {
    [libc::ECANCELED, libc::EINTR].contains(&(-result as i32))
}

/// What an operation's result means for its event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another operation is needed.
    Again,
    /// The event is complete with this result. Of joined ones, all that are left: where it is an
    /// error, with that, otherwise each with what it moved.
    Complete(i64),
    /// Of joined events, each that is left is asked for by itself.
    Apart,
}

impl Attempt {
    /// Announces the operation of a plain event, which the kernel may be asked for.
    #[inline(always)]
    pub(crate) fn begin_plain(&mut self, op: &Op) {
        self.asked = op.len;
        self.flags = op.flags;
    }

    /// Announces an operation. Fails where the kernel must not be asked.
    #[inline(always)]
    pub(crate) fn begin<C>(&mut self, op: &Op, event: &IOEvent<C>) -> Result<(), i32> {
        self.begin_plain(op);
        // The whole of it at once, or nothing.
        match op.flags & flags::ATOMIC != 0 && op.len != event.get_size() {
            true => Err(libc::EINVAL),
            false => Ok(()),
        }
    }

    /// Takes down that bytes were moved; EIO where they are more than were asked for.
    #[inline(always)]
    fn moved(&mut self, action: IOAction, moved: u64, counters: &mut Counters) -> Result<(), i32> {
        if moved > self.asked {
            log(Level::Error, || format!("the kernel moved {moved} of {} bytes", self.asked));
            return Err(libc::EIO);
        }
        match action {
            IOAction::Read => counters.bytes_read += moved,
            _ => counters.bytes_written += moved,
        }
        self.retries = 0;
        self.short = moved < self.asked;
        Ok(())
    }

    /// Whether an operation that made no progress is asked for again as it is.
    fn retries(&mut self, errno: i32) -> bool {
        let passing = match errno {
            libc::EINTR => true,
            // That it would wait was the question.
            libc::EAGAIN => self.flags & flags::NOWAIT == 0,
            _ => false,
        };
        let again = passing && self.retries < MAX_RETRIES;
        self.retries += u32::from(again);
        again
    }

    /// Whether the event is plain, its operation was for all that was left of it, and this result
    /// says that all of that was moved; if so it has its result.
    #[inline(always)]
    pub(crate) fn is_whole<C>(
        &mut self,
        event: &IOEvent<C>,
        result: i64,
        counters: &mut Counters,
    ) -> bool {
        let done = event.transferred() + self.asked;
        if result <= 0 || result as u64 != self.asked || done != event.get_size() {
            return false;
        }
        if !event.is_plain() {
            return false;
        }
        match event.kind() {
            IOAction::Read => counters.bytes_read += self.asked,
            _ => counters.bytes_written += self.asked,
        }
        event.set_whole();
        true
    }

    /// Judges what the kernel answered to the operation that `begin` announced.
    pub(crate) fn judge<C>(
        &mut self,
        event: &mut IOEvent<C>,
        result: i64,
        counters: &mut Counters,
    ) -> Verdict {
        let action = event.kind();
        match action {
            // A sync that failed is never asked again: the kernel reports an error once, and the
            // second answer would be yes while the data is gone (fsync(2)).
            // The wait of a range's sync takes the file's error as well (sync_file_range(2)).
            IOAction::Fsync | IOAction::Fdatasync | IOAction::SyncRange(_) => {
                return Verdict::Complete(result.min(0));
            }
            IOAction::Fallocate(_) | IOAction::Truncate | IOAction::Advise(_) if result >= 0 => {
                return Verdict::Complete(0);
            }
            IOAction::Read | IOAction::Write if result > 0 => {
                if let Err(errno) = self.moved(action, result as u64, counters) {
                    return Verdict::Complete(-i64::from(errno));
                }
                if event.advance(result as u64) {
                    return Verdict::Complete(event.transferred() as i64);
                }
                if self.flags & flags::ATOMIC != 0 {
                    // The kernel's promise is broken, and a second write would not mend it.
                    return Verdict::Complete(-i64::from(libc::EIO));
                }
                counters.continued += u64::from(self.short);
                return Verdict::Again;
            }
            _ => {}
        }
        match -result as i32 {
            // The end of the file; a transfer of no bytes is whole as well.
            0 if action == IOAction::Read || self.asked == 0 => {
                Verdict::Complete(event.transferred() as i64)
            }
            // A write that moves nothing and fails with nothing would go on for ever.
            0 => Verdict::Complete(-i64::from(libc::EIO)),
            errno if self.retries(errno) => Verdict::Again,
            // A direct read comes back short only at the end of the file. Where that is not at a
            // block boundary, going on from there is refused as misaligned (open(2), O_DIRECT).
            libc::EINVAL if action == IOAction::Read && self.short => {
                Verdict::Complete(event.transferred() as i64)
            }
            // One that goes on, after an earlier submission ended at such a place, begins once
            // more at the boundary before it.
            libc::EINVAL if action == IOAction::Read && self.set_back.is_none() => {
                let reached = event.transferred();
                let beyond = (event.offset() + reached) % DIRECT_BOUNDARY;
                if beyond == 0 || reached < beyond || !event.set_transferred(reached - beyond) {
                    return Verdict::Complete(result);
                }
                self.set_back = NonZeroU64::new(reached);
                Verdict::Again
            }
            _ => {
                let reached = self.set_back.map_or(0, NonZeroU64::get);
                if reached > event.transferred() {
                    event.set_transferred(reached);
                }
                Verdict::Complete(result)
            }
        }
    }

    /// The same for joined events, of which `run` is the first. Those that got all their bytes are
    /// handed to `whole`, and `run` becomes the first of the others, or the last of all.
    /// `status_flags` tells how the descriptor was opened.
    pub(crate) fn judge_joined<C>(
        &mut self,
        run: &mut IOEvent<C>,
        result: i64,
        counters: &mut Counters,
        status_flags: impl FnOnce() -> i32,
        mut whole: impl FnMut(IOEvent<C>),
    ) -> Verdict {
        let action = run.kind();
        if result > 0 {
            if let Err(errno) = self.moved(action, result as u64, counters) {
                return Verdict::Complete(-i64::from(errno));
            }
            let mut left = result as u64;
            loop {
                let missing = run.get_size() - run.transferred();
                if missing > left {
                    run.advance(left);
                    counters.continued += u64::from(self.short);
                    return Verdict::Again;
                }
                run.advance(missing);
                left -= missing;
                match merge::untie(run) {
                    Some(next) => whole(std::mem::replace(run, next)),
                    None => return Verdict::Complete(run.transferred() as i64),
                }
            }
        }
        let errno = match -result as i32 {
            0 if action == IOAction::Read => return Verdict::Complete(run.transferred() as i64),
            0 => libc::EIO,
            errno if self.retries(errno) => return Verdict::Again,
            errno => errno,
        };
        // A bad sector is one member's, and so is a place that a write cannot get. But where writing
        // makes durable, this error was the only one that the file will report, and a second answer
        // would be yes while data is gone.
        let durable = || {
            self.flags & flags::DSYNC != 0 || status_flags() & (libc::O_SYNC | libc::O_DSYNC) != 0
        };
        let apart = action == IOAction::Read || MEMBERS_OWN.contains(&errno) && !durable();
        if !apart {
            return Verdict::Complete(-i64::from(errno));
        }
        self.part(run);
        Verdict::Apart
    }

    /// Joined events go on one after the other. The first does in this attempt: what came short was its
    /// own, or nobody's.
    pub(crate) fn part<C>(&mut self, first: &IOEvent<C>) {
        self.retries = 0;
        self.short &= first.transferred() > 0;
    }
}
