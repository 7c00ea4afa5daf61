//! Deadlines in order: an indexed 4-ary heap over a slab.
//!
//! Most timers are timeouts that never fire: they are set, and removed a moment later because what
//! they guarded came in time. So removal has to be as cheap as insertion, which rules out
//! `BinaryHeap` (its removal is "mark as dead and carry it along"), and a deadline far in the
//! future has to cost no more than a near one, which rules out the simple timer wheel.
//!
//! The heap is 4-ary because its nodes are compared in runs that share a cache line or two: half
//! the levels of a binary heap, and the comparisons within a level are nearly free. An entry holds
//! everything that a comparison asks for; only a *moved* entry touches the slab, to note where it
//! went.

use crate::clock::Instant;

/// How many children a heap node has.
const ARITY: usize = 4;

/// The end of the list of vacant slots.
const NO_SLOT: u32 = u32::MAX;

/// Names one timer of one [`Timers`], also after it is gone.
///
/// A key is never reused for another timer (short of 2³² reuses of one slot), so a late
/// [`Timers::remove`] is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

/// A node of the heap.
#[derive(Clone, Copy)]
struct Entry {
    deadline: Instant,
    /// Counts insertions, so that equal deadlines fire in the order in which they were set.
    sequence: u64,
    /// Whose deadline this is: an index into `Timers::slots`.
    index: u32,
}

impl Entry {
    /// What the heap is ordered by, as one number: it compares without a branch.
    #[inline(always)]
    fn key(&self) -> u128 {
        (self.deadline as u128) << 64 | self.sequence as u128
    }
}

/// The part of a timer that stays in place while its entry moves through the heap.
struct Slot<T> {
    /// Advances each time the slot is vacated, which is what makes old keys invalid.
    generation: u32,
    /// Occupied: where the entry is in the heap. Vacant: the next vacant slot.
    position: u32,
    value: Option<T>,
}

/// A set of deadlines with a value each.
///
/// Timers with equal deadlines fire in the order of their insertion. Inserting and removing cost
/// O(log n), and about O(1) where deadlines mostly ascend. Memory is kept for reuse: it is that of
/// the most timers there ever were at once.
pub struct Timers<T> {
    heap: Vec<Entry>,
    slots: Vec<Slot<T>>,
    /// The first vacant slot, the head of a list through `Slot::position`.
    vacant: u32,
    next_sequence: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Timers<T> {
    /// An empty set. Does not allocate.
    pub const fn new() -> Self {
        Timers {
            heap: Vec::new(),
            slots: Vec::new(),
            vacant: NO_SLOT,
            next_sequence: 0,
        }
    }

    /// How many timers are set.
    #[inline]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is set.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The earliest deadline.
    #[inline]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Sets a timer.
    ///
    /// # Panics
    ///
    /// With more than 2³² - 1 timers at once.
    #[inline]
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerKey {
        let index = self.occupy(value);
        let entry = Entry {
            deadline,
            sequence: self.next_sequence,
            index,
        };
        self.next_sequence += 1;
        self.heap.push(entry);
        self.sift_up(self.heap.len() - 1, entry);
        TimerKey {
            index,
            generation: self.slots[index as usize].generation,
        }
    }

    /// Unsets a timer and gives its value back; `None` if it fired or was removed before.
    #[inline]
    pub fn remove(&mut self, key: TimerKey) -> Option<T> {
        let slot = self.slots.get(key.index as usize)?;
        // A vacant slot's generation has moved on from every key that was ever given out for it.
        if slot.generation != key.generation {
            return None;
        }
        let position = slot.position as usize;
        self.remove_entry(position);
        self.vacate(key.index)
    }

    /// Takes out the earliest timer whose deadline is not after `now`.
    ///
    /// Call it until it says `None`. A timer that is set in between with a deadline in the past
    /// fires in the same round, so a caller that sets timers from what it pops must bound the
    /// round itself.
    #[inline]
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let first = *self.heap.first()?;
        if first.deadline > now {
            return None;
        }
        self.remove_entry(0);
        self.vacate(first.index)
    }

    /// Unsets all timers and drops their values. Keys that were given out stay invalid.
    pub fn clear(&mut self) {
        while let Some(entry) = self.heap.pop() {
            self.vacate(entry.index);
        }
    }

    #[inline]
    fn occupy(&mut self, value: T) -> u32 {
        let index = self.vacant;
        if index == NO_SLOT {
            let index = u32::try_from(self.slots.len())
                .ok()
                .filter(|&index| index != NO_SLOT)
                .expect("fewer than 2^32 - 1 timers at once");
            self.slots.push(Slot {
                generation: 0,
                position: 0,
                value: Some(value),
            });
            index
        } else {
            let slot = &mut self.slots[index as usize];
            self.vacant = slot.position;
            slot.value = Some(value);
            index
        }
    }

    #[inline]
    fn vacate(&mut self, index: u32) -> Option<T> {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.position = self.vacant;
        self.vacant = index;
        slot.value.take()
    }

    /// Closes the gap at `position` with the heap's last entry.
    #[inline]
    fn remove_entry(&mut self, position: usize) {
        let last = self
            .heap
            .pop()
            .expect("an occupied slot has an entry in the heap");
        if position == self.heap.len() {
            return;
        }
        // The last entry comes from another branch, so it may belong above the gap as well as
        // below it.
        if position > 0 && last.key() < self.heap[(position - 1) / ARITY].key() {
            self.sift_up(position, last);
        } else {
            self.sift_down(position, last);
        }
    }

    /// Writes `entry` to `position` and tells its slot.
    #[inline(always)]
    fn place(&mut self, position: usize, entry: Entry) {
        self.heap[position] = entry;
        self.slots[entry.index as usize].position = position as u32;
    }

    /// Puts `entry` where it belongs on the way from `position` to the root.
    #[inline]
    fn sift_up(&mut self, mut position: usize, entry: Entry) {
        while position > 0 {
            let above = (position - 1) / ARITY;
            let parent = self.heap[above];
            if parent.key() <= entry.key() {
                break;
            }
            self.place(position, parent);
            position = above;
        }
        self.place(position, entry);
    }

    /// Puts `entry` where it belongs on the way from `position` to the leaves.
    #[inline]
    fn sift_down(&mut self, mut position: usize, entry: Entry) {
        loop {
            let first = position * ARITY + 1;
            if first >= self.heap.len() {
                break;
            }
            let end = (first + ARITY).min(self.heap.len());
            let mut least = first;
            let mut least_key = self.heap[first].key();
            for child in first + 1..end {
                let key = self.heap[child].key();
                if key < least_key {
                    least = child;
                    least_key = key;
                }
            }
            if entry.key() <= least_key {
                break;
            }
            self.place(position, self.heap[least]);
            position = least;
        }
        self.place(position, entry);
    }
}
