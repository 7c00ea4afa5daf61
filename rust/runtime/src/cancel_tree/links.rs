//! The nodes of a tree and the links between them, in one slab.

use std::any::Any;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::clock::Instant;

/// `Scope::cancel` was called.
pub(super) const CANCEL_CALLED: u8 = 1;
/// The parent is effectively cancelled and we have no shield: its cancellation is visible here.
pub(super) const INHERITED: u8 = 2;
/// Cancellation of the parent stays outside.
pub(super) const SHIELD: u8 = 4;
/// `Scope::close` was called. The other bits but `CANCEL_CALLED` and `CAUGHT` do not change any more.
pub(super) const CLOSED: u8 = 8;
/// `Scope::note_caught` was called.
pub(super) const CAUGHT: u8 = 16;

pub(super) const EFFECTIVELY_CANCELLED: u8 = CANCEL_CALLED | INHERITED;

/// The absent slot.
pub(super) const NONE: u32 = u32::MAX;

/// What else has a deadline for what runs in a scope, beside the tree. Whoever put it there knows
/// what it is.
pub type Beyond = Arc<dyn Any + Send + Sync>;

pub(super) struct Node<W> {
    /// The bits above. Changed only under the tree's lock, read without it.
    flags: AtomicU8,
    pub(super) deadline: AtomicU64,
    /// Where our links are, for as long as the node lives, closed or not.
    pub(super) index: u32,
    /// The destructor has been here: `index` may be another's by now.
    detached: bool,
    pub(super) tree: Arc<Tree<W>>,
}

pub(super) struct Tree<W> {
    links: Mutex<Slab<W>>,
}

/// The links of a node, and what else only matters under the lock.
pub(super) struct Slot<W> {
    /// The scope around this one. A closed scope keeps it, so that who enters a scope inside a
    /// closed one ends up in the next open one and does not escape all cancellation.
    pub(super) parent: Option<Arc<Node<W>>>,
    pub(super) first_child: u32,
    pub(super) last_child: u32,
    pub(super) previous: u32,
    /// The next sibling, or the next vacant slot.
    pub(super) next: u32,
    pub(super) node: Weak<Node<W>>,
    pub(super) task: Option<W>,
    /// Why it was cancelled, if the canceller has said so.
    pub(super) reason: Option<Box<str>>,
    pub(super) beyond: Option<Beyond>,
}

pub(super) struct Slab<W> {
    pub(super) slots: Vec<Slot<W>>,
    vacant: u32,
}

impl<W> Tree<W> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Tree {
            links: Mutex::new(Slab {
                slots: Vec::new(),
                vacant: NONE,
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Slab<W>> {
        // Nothing that we do under the lock panics half-way, but for running out of memory.
        self.links
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<W> Slab<W> {
    pub(super) fn occupy(&mut self, parent: Option<Arc<Node<W>>>, task: Option<W>) -> u32 {
        let slot = Slot {
            parent,
            first_child: NONE,
            last_child: NONE,
            previous: NONE,
            next: NONE,
            node: Weak::new(),
            task,
            reason: None,
            beyond: None,
        };
        let index = self.vacant;
        if index == NONE {
            let index = u32::try_from(self.slots.len())
                .ok()
                .filter(|&index| index != NONE)
                .expect("fewer than 2^32 - 1 scopes in one tree");
            self.slots.push(slot);
            index
        } else {
            self.vacant = self.slots[index as usize].next;
            self.slots[index as usize] = slot;
            index
        }
    }

    fn vacate(&mut self, index: u32) {
        self.slots[index as usize].next = self.vacant;
        self.vacant = index;
    }

    /// Links `child` in as the last child of `parent`.
    pub(super) fn append(&mut self, parent: u32, child: u32) {
        let last = self.slots[parent as usize].last_child;
        self.slots[child as usize].previous = last;
        if last == NONE {
            self.slots[parent as usize].first_child = child;
        } else {
            self.slots[last as usize].next = child;
        }
        self.slots[parent as usize].last_child = child;
    }

    pub(super) fn unlink(&mut self, parent: u32, child: u32) {
        let Slot { previous, next, .. } = self.slots[child as usize];
        if previous == NONE {
            self.slots[parent as usize].first_child = next;
        } else {
            self.slots[previous as usize].next = next;
        }
        if next == NONE {
            self.slots[parent as usize].last_child = previous;
        } else {
            self.slots[next as usize].previous = previous;
        }
        let slot = &mut self.slots[child as usize];
        slot.previous = NONE;
        slot.next = NONE;
    }

    pub(super) fn nearest_open<'a>(
        &'a self,
        mut node: Option<&'a Arc<Node<W>>>,
    ) -> Option<Arc<Node<W>>> {
        while let Some(closed) = node
            && closed.flags() & CLOSED != 0
        {
            node = self.slots[closed.index as usize].parent.as_ref();
        }
        node.cloned()
    }
}

impl<W> Node<W> {
    pub(super) fn new(tree: &Arc<Tree<W>>, index: u32, flags: u8, deadline: Instant) -> Self {
        Node {
            flags: AtomicU8::new(flags),
            deadline: AtomicU64::new(deadline),
            index,
            detached: false,
            tree: Arc::clone(tree),
        }
    }

    #[inline(always)]
    pub(super) fn flags(&self) -> u8 {
        // Acquire, to see what the canceller did before he cancelled.
        self.flags.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(super) fn is_cancelled(&self) -> bool {
        self.flags() & EFFECTIVELY_CANCELLED != 0
    }

    /// Only under the tree's lock.
    pub(super) fn set(&self, bits: u8, to: bool) {
        if to {
            self.flags.fetch_or(bits, Ordering::Release);
        } else {
            self.flags.fetch_and(!bits, Ordering::Release);
        }
    }

    /// Frees our slot and gives back the parent, which may live by our reference alone.
    fn detach(&mut self) -> Option<Arc<Node<W>>> {
        if std::mem::replace(&mut self.detached, true) {
            return None;
        }
        let mut links = self.tree.lock();
        let slot = &mut links.slots[self.index as usize];
        debug_assert_eq!(slot.first_child, NONE, "children hold their parent");
        slot.node = Weak::new();
        let parent = slot.parent.take();
        let task = slot.task.take();
        let beyond = slot.beyond.take();
        if self.flags() & CLOSED == 0
            && let Some(parent) = &parent
        {
            links.unlink(parent.index, self.index);
        }
        links.vacate(self.index);
        drop(links);
        drop((task, beyond));
        parent
    }
}

impl<W> Drop for Node<W> {
    /// With the last handle of a chain's innermost scope the whole chain may end. It is taken
    /// apart in a loop, since a hundred thousand nested destructors would not fit the stack.
    fn drop(&mut self) {
        let mut parent = self.detach();
        while let Some(node) = parent {
            // When the closure ends, the destructor of its node finds nothing left to do.
            parent = Arc::into_inner(node).and_then(|mut node| node.detach());
        }
    }
}
