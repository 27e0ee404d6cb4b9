//! The structs that carry their own size: every size, every value.

use std::ptr;

use libc::{E2BIG, EINVAL};

use super::super::context::*;
use super::contexts::Context;
use super::{cause, check, Run, State};

/// Beyond this a struct is refused whatever is in it.
const MOST: usize = 4096;
/// The sizes of the first version.
const CONFIG: usize = 48;
const INFO: usize = 56;
const STATS: usize = 96;
/// The simulator's limit.
const MAX_DEPTH: u32 = 64;

/// A configuration, as far as it was given.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) driver: i32,
    pub(super) depth: u32,
    pub(super) queue_size: u32,
    pub(super) workers: u32,
    pub(super) merge_limit: u32,
    pub(super) flags: u32,
    pub(super) shared: Option<usize>,
    pub(super) stall_ms: u32,
    pub(super) reactors: u32,
    /// How many were asked for.
    pub(super) asked: u32,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            driver: 0,
            depth: 128,
            queue_size: 1024,
            workers: 1,
            merge_limit: 0,
            flags: 0,
            shared: None,
            stall_ms: 0,
            reactors: 1,
            asked: 1,
        }
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Wanted {
    /// The struct, in words of 8 bytes, cut to `size` or filled up with zeros.
    pub(super) fn bytes(&self, state: &State, size: usize) -> Vec<u64> {
        let shared = self.shared.map_or(ptr::null_mut(), |slot| state.workers[slot].raw);
        let mut words = vec![
            size as u64,
            pair(self.driver as u32, self.depth),
            pair(self.queue_size, self.workers),
            pair(self.merge_limit, self.flags),
            shared as u64,
            pair(self.stall_ms, self.reactors),
        ];
        words.resize(size.div_ceil(8).max(1), 0);
        words
    }

    /// What is left of it in a struct of this size.
    fn cut(self, size: usize) -> Self {
        let mut left = Wanted::default();
        if size >= 16 {
            (left.driver, left.depth) = (self.driver, self.depth);
        }
        if size >= 24 {
            (left.queue_size, left.workers) = (self.queue_size, self.workers);
        }
        if size >= 32 {
            (left.merge_limit, left.flags) = (self.merge_limit, self.flags);
        }
        if size >= 40 {
            left.shared = self.shared;
        }
        if size >= 48 {
            (left.stall_ms, left.reactors) = (self.stall_ms, self.reactors);
        }
        left
    }

    /// Why no context may be made of it.
    pub(super) fn causes(&self, words: &[u64]) -> Vec<i32> {
        let size = words[0] as usize;
        let Wanted { driver, depth, queue_size, workers, flags, reactors, .. } = *self;
        let (polled, ring, iopoll) = (flags & 1 != 0, flags & 6 != 0, flags & 4 != 0);
        let own_workers = !polled && self.shared.is_none();
        let invalid = size < 8
            || size % 8 != 0
            || !(0..4).contains(&driver)
            || !(1..=32768).contains(&depth)
            || !(1..=1 << 20).contains(&queue_size)
            || own_workers && workers > 256
            || flags > 15
            || iopoll && !polled
            || polled && (self.shared.is_some() || reactors > 1)
            || reactors > 64
            || ring && driver > 1;
        let unknown =
            words.get(CONFIG / 8..).is_some_and(|tail| tail.iter().any(|word| *word != 0));
        cause(EINVAL, invalid).into_iter().chain(cause(E2BIG, size > MOST || unknown)).collect()
    }
}

/// What nobody writes.
const FILL: u8 = 0xa5;

fn check_untouched(bytes: &[u8]) {
    assert!(bytes.iter().all(|byte| *byte == FILL), "written without success");
}

fn check_filled(bytes: &[u8], expected: &[u64]) {
    let expected = expected.iter().flat_map(|word| word.to_le_bytes());
    assert!(bytes.iter().copied().eq(expected), "{bytes:?}");
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |word: &[u8]| u64::from_le_bytes(word.try_into().expect("a multiple of 8"));
    bytes.chunks(8).map(word).collect()
}

impl Run {
    pub(super) fn config_init(&self) {
        let (size, mut bytes, null) = self.any_room();
        let at = if null { ptr::null_mut() } else { bytes.as_mut_ptr() };
        // SAFETY: NULL, or so many writable bytes.
        let answer = unsafe { ioe_config_init(at.cast(), size) };
        check("ioe_config_init", answer.into(), &Self::causes_of_size(null, size));
        if answer < 0 {
            return check_untouched(&bytes);
        }
        let expected = Wanted::default().bytes(&self.state(), size);
        check_filled(&bytes, &expected);
    }

    /// A size, and as much room; or none.
    fn any_room(&self) -> (usize, Box<[u8]>, bool) {
        let mut state = self.state();
        let null = state.input.one_in(16);
        let size = match state.input.byte() {
            words @ 0..192 => usize::from(words % 24) * 8,
            odd @ 192..208 => usize::from(odd),
            near @ 208..224 => MOST - 8 + usize::from(near),
            _ if null => state.input.number() as usize,
            _ => (state.input.number() % (1 << 16)) as usize,
        };
        (size, vec![FILL; if null { 0 } else { size }].into(), null)
    }

    fn causes_of_size(null: bool, size: usize) -> Vec<i32> {
        let invalid = null || size < 8 || size % 8 != 0;
        cause(EINVAL, invalid).into_iter().chain(cause(E2BIG, size > MOST)).collect()
    }

    /// A context of any bytes.
    pub(super) fn context_of_bytes(&self) {
        let mut state = self.state();
        let Some(slot) = state.no_context() else { return };
        let shared = Self::any_workers(&mut state);
        // One after the other goes wrong: all at once would never get far.
        let wrong = state.input.byte();
        let input = &mut state.input;
        let mut value = |bit: u8, common: u32| match wrong & bit {
            0 => u32::from(input.byte()) % common,
            _ => input.number() as u32,
        };
        let wanted = Wanted {
            driver: value(1, 4) as i32,
            depth: value(2, 64).wrapping_add(1),
            queue_size: value(4, 64).wrapping_add(1),
            workers: value(8, 3),
            merge_limit: value(16, 256),
            flags: value(32, 16),
            stall_ms: value(16, 256),
            reactors: value(64, 3),
            shared,
            ..Wanted::default()
        };
        let size = match input.byte() {
            0..128 => CONFIG,
            words @ 128..192 => usize::from(words % 16) * 8,
            near @ 192..208 => MOST - 8 + usize::from(near),
            _ => (input.number() % (1 << 14)) as usize,
        };
        let tail = input.one_in(8).then(|| input.number());
        let mut words = wanted.bytes(&state, size);
        if let (Some(tail), Some(last)) =
            (tail, words.get_mut(CONFIG / 8..).and_then(<[_]>::last_mut))
        {
            *last = tail;
        }
        drop(state);
        self.context_from(slot, wanted.cut(size), &words);
    }

    pub(super) fn context_info(&self) {
        let (size, mut bytes, null) = self.any_room();
        let mut state = self.state();
        let slot = state.any_context();
        let Context { raw, wanted, polled, .. } = state.contexts[slot];
        let driver = if wanted.driver == 0 { 1 } else { wanted.driver };
        let shared = wanted.shared.map(|slot| state.workers[slot].threads);
        let workers = if polled { 0 } else { shared.unwrap_or(wanted.workers) };
        let dropped = if driver == 1 { 0 } else { 6 };
        let at = if null { ptr::null_mut() } else { bytes.as_mut_ptr() };
        // SAFETY: a context or NULL; NULL, or so many writable bytes.
        let answer = unsafe { ioe_context_info(raw, at.cast(), size) };
        let causes = Self::causes_of_size(null || raw.is_null(), size);
        check("ioe_context_info", answer.into(), &causes);
        if answer < 0 {
            return check_untouched(&bytes);
        }
        let mut expected = vec![
            size.min(INFO) as u64,
            pair(driver as u32, wanted.depth.min(MAX_DEPTH)),
            pair(wanted.queue_size, workers),
            pair(wanted.merge_limit.min(1 << 30), wanted.flags & !dropped),
            0,
            0,
            pair(wanted.reactors, 0),
        ];
        expected.resize(size / 8, 0);
        // What became of the driver since is not known here.
        let words = words(&bytes);
        if let Some(now) = words.get(1) {
            let broken = *now as u32 == 3 && now >> 32 == expected[1] >> 32;
            assert!(broken || *now == expected[1], "driver and depth");
            expected[1] = *now;
        }
        if let Some(errnos) = words.get(4) {
            expected[4] = *errnos;
        }
        if let Some(reason) = words.get(5) {
            expected[5] = *reason;
            // SAFETY: it lives as long as the context.
            let reason = unsafe { std::ffi::CStr::from_ptr(*reason as *const _) };
            assert!(!reason.is_empty() || wanted.reactors == wanted.asked, "no reason");
        }
        check_filled(&bytes, &expected);
    }

    pub(super) fn context_stats(&self) {
        let (size, mut bytes, null) = self.any_room();
        let mut state = self.state();
        let slot = state.any_context();
        let raw = state.contexts[slot].raw;
        let at = if null { ptr::null_mut() } else { bytes.as_mut_ptr() };
        // SAFETY: a context or NULL; NULL, or so many writable bytes.
        let answer = unsafe { ioe_context_stats(raw, at.cast(), size) };
        let causes = Self::causes_of_size(null || raw.is_null(), size);
        check("ioe_context_stats", answer.into(), &causes);
        if answer < 0 {
            return check_untouched(&bytes);
        }
        let words = words(&bytes);
        assert_eq!(words[0], size.min(STATS) as u64);
        assert!(words.iter().skip(STATS / 8).all(|word| *word == 0), "zeros beyond");
        let Context { accepted, completed, failed, .. } = state.contexts[slot];
        if !self.threads {
            // What a call further up the stack waits for may be counted, and not have been told.
            let waited_for = state.waited_for(slot);
            let flying = accepted - completed;
            let between = |word: usize, least: u64| {
                words.get(word).is_none_or(|count| (least..=least + waited_for).contains(count))
            };
            assert!(words.get(1).is_none_or(|count| *count == accepted), "accepted");
            assert!(between(2, completed), "completed");
            assert!(between(11, flying - waited_for), "in flight");
            let told = words.get(3).copied().unwrap_or(failed);
            assert!(told >= failed && (flying > 0 || told == failed), "{told} failed: {failed}");
        }
    }
}
