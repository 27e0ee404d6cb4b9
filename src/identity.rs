//! Who an event is, and in which of its lives. Each has a cell that outlives it: an id can be looked
//! up at any time, by any thread, however old it is, and never hits a successor.

use std::ptr;
use std::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::ledger::Ledger;

/// The bits of an id that say which cell; the others count the lives in it. Forty bits last for a
/// trillion operations on one event.
const INDEX_BITS: u32 = 24;
const CHUNK: usize = 1024;
const CHUNKS: usize = (1 << INDEX_BITS) / CHUNK;

/// Whose an event is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum State {
    /// The caller's, and not to be submitted.
    Unprepared = 0,
    /// The caller's.
    Owned = 1,
    InFlight = 2,
    /// In flight, and somebody wants it back.
    Cancelled = 3,
}

const STATE: u64 = 3;
const LIFE: u64 = STATE + 1;

/// What [`Cell::owned`] saw.
#[derive(Clone, Copy)]
pub(crate) struct Owned(u64);

/// A cache line each: two neighbours may be of two threads, and both are written as events go by.
#[repr(align(64))]
pub(crate) struct Cell {
    /// The life times four, and the state.
    word: AtomicU64,
    /// Of the context that accepted the event; null where none did.
    owner: AtomicPtr<Ledger>,
    index: u32,
    /// In the list of free cells: the next one's index and 1; 0 at its end.
    next: AtomicU32,
}

/// Never freed, and nothing in it moves.
static TABLE: [AtomicPtr<Cell>; CHUNKS] = [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS];

/// The free cells: the first one's index and 1, and above it a count of changes, without which one
/// that was taken and came back meanwhile would look like one that stayed. No lock: a forked child
/// could find it held.
static FREE: AtomicU64 = AtomicU64::new(0);
const COUNT: u64 = 1 << 32;

impl Cell {
    /// A cell for a new event; `None` where memory is short, or there are sixteen million.
    pub(crate) fn take() -> Option<&'static Cell> {
        loop {
            let head = FREE.load(Acquire);
            let Some(cell) = (head as u32).checked_sub(1).and_then(Cell::at) else {
                Cell::make()?;
                continue;
            };
            let next = u64::from(cell.next.load(Relaxed));
            let changed = (head & !(COUNT - 1)).wrapping_add(COUNT) | next;
            if FREE.compare_exchange_weak(head, changed, AcqRel, Relaxed).is_ok() {
                return Some(cell);
            }
        }
    }

    /// The event is gone.
    pub(crate) fn give_back(&'static self) {
        self.renew(State::Unprepared);
        self.free();
    }

    fn free(&'static self) {
        let mut head = FREE.load(Relaxed);
        loop {
            self.next.store(head as u32, Relaxed);
            let changed = (head & !(COUNT - 1)).wrapping_add(COUNT) | u64::from(self.index + 1);
            match FREE.compare_exchange_weak(head, changed, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn at(index: u32) -> Option<&'static Cell> {
        let chunk = TABLE.get(index as usize / CHUNK)?.load(Acquire);
        // SAFETY: a chunk in the table has that many cells, and stays.
        (!chunk.is_null()).then(|| unsafe { &*chunk.add(index as usize % CHUNK) })
    }

    /// Adds a chunk of free cells, unless somebody else just did.
    fn make() -> Option<()> {
        let place = TABLE.iter().position(|chunk| chunk.load(Relaxed).is_null())?;
        let mut cells = Vec::new();
        cells.try_reserve_exact(CHUNK).ok()?;
        cells.extend((0..CHUNK).map(|number| Cell {
            word: AtomicU64::new(LIFE),
            owner: AtomicPtr::new(ptr::null_mut()),
            index: (place * CHUNK + number) as u32,
            next: AtomicU32::new(0),
        }));
        let chunk = Box::into_raw(cells.into_boxed_slice());
        let made = TABLE[place].compare_exchange(ptr::null_mut(), chunk.cast(), AcqRel, Relaxed);
        if made.is_err() {
            // SAFETY: just made, and nobody else has seen it.
            drop(unsafe { Box::from_raw(chunk) });
            return Some(());
        }
        // The last to be freed is the first to be taken.
        for number in (0..CHUNK).rev() {
            Cell::at((place * CHUNK + number) as u32)?.free();
        }
        Some(())
    }

    /// Names the event in its present life. Never 0.
    pub(crate) fn id(&self) -> u64 {
        ((self.word.load(Acquire) / LIFE) << INDEX_BITS) | u64::from(self.index)
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> State {
        match self.word.load(Acquire) & STATE {
            0 => State::Unprepared,
            1 => State::Owned,
            2 => State::InFlight,
            _ => State::Cancelled,
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.state() == State::Cancelled
    }

    /// Begins a new life. By whoever holds the event.
    #[inline(always)]
    pub(crate) fn renew(&self, state: State) {
        self.owner.store(ptr::null_mut(), Relaxed);
        let life = self.word.load(Relaxed) & !STATE;
        self.word.store(life.wrapping_add(LIFE) | state as u64, Release);
    }

    /// Changes the state in this life. By whoever holds the event.
    pub(crate) fn set_state(&self, state: State) {
        self.owner.store(ptr::null_mut(), Relaxed);
        self.word.store(self.word.load(Relaxed) & !STATE | state as u64, Release);
    }

    /// The event as its caller has it, prepared; for `launch`.
    #[inline(always)]
    pub(crate) fn owned(&self) -> Option<Owned> {
        let word = self.word.load(Relaxed);
        (word & STATE == State::Owned as u64).then_some(Owned(word))
    }

    /// Takes the event from its caller; false where somebody else did.
    #[inline(always)]
    pub(crate) fn launch(&self, Owned(word): Owned) -> bool {
        let in_flight = word ^ (State::Owned as u64 ^ State::InFlight as u64);
        self.word.compare_exchange(word, in_flight, Acquire, Relaxed).is_ok()
    }

    /// A context accepts the event: from here on it can be cancelled.
    #[inline(always)]
    pub(crate) fn set_owner(&self, owner: *const Ledger) {
        self.owner.store(owner.cast_mut(), Release);
    }

    pub(crate) fn owner(&self) -> *const Ledger {
        self.owner.load(Relaxed)
    }

    /// Marks the event with this id, if it is in flight in this context.
    pub(crate) fn cancel(id: u64, owner: *const Ledger) -> bool {
        let index = id & ((1 << INDEX_BITS) - 1);
        let Some(cell) = Cell::at(index as u32) else { return false };
        let in_flight = ((id >> INDEX_BITS) * LIFE) | State::InFlight as u64;
        let cancelled = in_flight | State::Cancelled as u64;
        let word = cell.word.load(Acquire);
        if word != in_flight && word != cancelled || !ptr::eq(cell.owner.load(Acquire), owner) {
            return false;
        }
        // The life is the same before and after, and with it the owner that was seen between.
        match cell.word.compare_exchange(word, cancelled, AcqRel, Relaxed) {
            Ok(_) => true,
            Err(now) => now == cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_one_life_in_one_context() {
        let (mine, other) = (Ledger::new(1, false), Ledger::new(1, false));
        let cell = Cell::take().unwrap();
        cell.renew(State::Owned);
        let id = cell.id();
        assert!(!Cell::cancel(id, &mine), "not in flight");
        let owned = cell.owned().unwrap();
        assert!(cell.launch(owned));
        assert!(!cell.launch(owned), "once");
        assert!(!Cell::cancel(id, &mine), "not accepted");
        cell.set_owner(&mine);
        assert!(!Cell::cancel(id, &other), "in another context");
        assert!(!cell.is_cancelled());
        assert!(Cell::cancel(id, &mine) && Cell::cancel(id, &mine));
        assert!(cell.is_cancelled());
        cell.renew(State::Owned);
        assert!(cell.launch(cell.owned().unwrap()));
        cell.set_owner(&mine);
        assert!(!Cell::cancel(id, &mine), "its successor");
        assert_ne!(cell.id(), id);
        assert!(Cell::cancel(cell.id(), &mine));
        for wrong in [0, u64::MAX, 1 << INDEX_BITS, id ^ 1] {
            assert!(!Cell::cancel(wrong, &mine));
        }
        cell.give_back();
    }

    #[test]
    fn every_cell_is_somebodys_once() {
        let taken = std::sync::Mutex::new(std::collections::HashSet::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        let cell = Cell::take().unwrap();
                        assert!(taken.lock().unwrap().insert(cell.index));
                        if round % 3 > 0 {
                            taken.lock().unwrap().remove(&cell.index);
                            cell.give_back();
                        }
                    }
                });
            }
        });
        let taken = taken.into_inner().unwrap();
        taken.iter().for_each(|index| Cell::at(*index).unwrap().give_back());
    }
}
