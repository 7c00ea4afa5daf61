//! A line of parties that wait for permits, served in the order in which they came.
//!
//! Everybody has a ticket with a number. Whether one was served is told by comparing it with the number
//! that was served last, so a party needs no memory of its own in the line, and nothing refers to where
//! it waits from: its C stack may be copied away meanwhile.

use std::collections::VecDeque;
use std::task::Waker;

use crate::fork;

/// The lower bits of a ticket are its number, the others the life of the line: a ticket of an earlier
/// life is never served. There are enough numbers for a million waits a second during nine years.
const NUMBER_BITS: u32 = 48;

/// A place in a [`Line`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// Whether it is served if all those before `served` are.
    #[inline]
    pub fn is_served(self, served: u64) -> bool {
        self.0 < served && self.0 >> NUMBER_BITS == served >> NUMBER_BITS
    }
}

struct Place {
    ticket: Ticket,
    /// `None`: the party has left.
    waker: Option<Waker>,
}

/// See the module's description.
pub struct Line {
    /// In the order of the tickets. The last one has not left.
    places: VecDeque<Place>,
    /// How many of them have been left.
    left: usize,
    /// The next ticket.
    next: u64,
    /// All tickets of this life before this one have been served or left.
    served: u64,
    /// The process whose parties these are; see [`fork`].
    generation: u32,
}

impl Line {
    /// An empty line.
    pub fn new() -> Self {
        Line {
            places: VecDeque::new(),
            left: 0,
            next: 0,
            served: 0,
            generation: fork::generation(),
        }
    }

    /// Whether those in it are of the process that this one was forked from.
    #[inline]
    pub fn is_of_parent(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Forgets everybody, who will never be served. They are leaked, see [`fork`].
    pub fn forget(&mut self) {
        std::mem::forget(std::mem::take(&mut self.places));
        self.left = 0;
        self.next = ((self.next >> NUMBER_BITS) + 1) << NUMBER_BITS;
        self.served = self.next;
        self.generation = fork::generation();
    }

    /// The ticket before which all of this life have been served or left.
    #[inline]
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Joins it at its end.
    #[inline]
    pub fn join(&mut self, waker: Waker) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.places.push_back(Place {
            ticket,
            waker: Some(waker),
        });
        ticket
    }

    /// Serves the first party, which is there, and returns the waker to wake when the line is unlocked.
    #[inline]
    pub fn serve(&mut self) -> Waker {
        loop {
            let place = self
                .places
                .pop_front()
                .expect("somebody was counted, so somebody waits");
            match place.waker {
                Some(waker) => {
                    self.served = place.ticket.0 + 1;
                    return waker;
                }
                None => self.left -= 1,
            }
        }
    }

    fn place_of(&self, ticket: Ticket) -> Option<usize> {
        self.places
            .binary_search_by_key(&ticket, |place| place.ticket)
            .ok()
    }

    /// From now on `waker` is to be woken. Returns what is to be dropped when the line is unlocked.
    pub fn replace_waker(&mut self, ticket: Ticket, waker: &Waker) -> Option<Waker> {
        let index = self.place_of(ticket)?;
        let present = self.places[index].waker.as_mut()?;
        if present.will_wake(waker) {
            return None;
        }
        Some(std::mem::replace(present, waker.clone()))
    }

    /// Leaves it without having been served. The waker that is to be dropped when the line is unlocked;
    /// `None` for a ticket of an earlier life.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        let index = self.place_of(ticket)?;
        let waker = self.places[index].waker.take()?;
        self.left += 1;
        while self
            .places
            .back()
            .is_some_and(|place| place.waker.is_none())
        {
            self.places.pop_back();
            self.left -= 1;
        }
        // So that those who come and go behind somebody who stays do not pile up, at a cost that is
        // constant for each.
        if self.left > 32 && self.left * 2 > self.places.len() {
            self.places.retain(|place| place.waker.is_some());
            self.left = 0;
        }
        if self.places.is_empty() && self.places.capacity() > 1024 {
            self.places = VecDeque::new();
        }
        Some(waker)
    }
}
