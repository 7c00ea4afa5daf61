//! Whom a change of the tree wakes.

use std::collections::VecDeque;
use std::fmt;

/// Those whose scope has just become effectively cancelled, outermost first.
///
/// They are yours to wake, with no lock held.
#[must_use = "these are blocked in a scope that is now cancelled; wake them"]
pub struct Woken<W> {
    /// Nearly always there is at most one, and then nothing is allocated.
    first: Option<W>,
    rest: VecDeque<W>,
}

impl<W> Woken<W> {
    pub(super) const fn none() -> Self {
        Woken {
            first: None,
            rest: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, task: W) {
        if self.first.is_none() {
            self.first = Some(task);
        } else {
            self.rest.push_back(task);
        }
    }

    /// How many there are to wake.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether nobody has to be woken.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<W> Iterator for Woken<W> {
    type Item = W;

    fn next(&mut self) -> Option<W> {
        let task = self.first.take()?;
        self.first = self.rest.pop_front();
        Some(task)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl<W> ExactSizeIterator for Woken<W> {}

impl<W> fmt::Debug for Woken<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Woken").field("len", &self.len()).finish()
    }
}
