//! The walk that tells all the scopes inside of one that it has changed.

use std::sync::{Arc, MutexGuard};

use super::Woken;
use super::links::{
    CANCEL_CALLED, EFFECTIVELY_CANCELLED, INHERITED, NONE, Node, SHIELD, Slab, Tree,
};

/// A walk through the tree under its lock.
pub(super) struct Walk<'a, W> {
    pub(super) links: MutexGuard<'a, Slab<W>>,
    woken: Woken<W>,
    /// The nodes that were visited. Ours may have become the last reference to one, and then its
    /// destructor takes the lock; so they are dropped after it.
    visited: Vec<Arc<Node<W>>>,
}

impl<'a, W: Clone> Walk<'a, W> {
    pub(super) fn new(tree: &'a Tree<W>) -> Self {
        Walk {
            links: tree.lock(),
            woken: Woken::none(),
            visited: Vec::new(),
        }
    }

    /// Releases the lock, and then everything that must not be dropped under it.
    pub(super) fn finish(self) -> Woken<W> {
        let Walk {
            links,
            woken,
            visited,
        } = self;
        drop(links);
        drop(visited);
        woken
    }

    /// Brings a node, and all below it that this concerns, up to date with its parent.
    pub(super) fn update(&mut self, index: u32) {
        if self.inherit(index) {
            self.descend(index);
        }
    }

    /// Brings everything below a node up to date after the node itself has changed.
    pub(super) fn descend(&mut self, start: u32) {
        // In preorder along the links, so no stack is needed however deep the tree is.
        let mut at = self.links.slots[start as usize].first_child;
        while at != NONE {
            let inner = if self.inherit(at) {
                self.links.slots[at as usize].first_child
            } else {
                NONE
            };
            at = if inner != NONE {
                inner
            } else {
                self.after(at, start)
            };
        }
    }

    /// The next node in preorder that is neither `at` nor below it, but below `start`.
    fn after(&self, mut at: u32, start: u32) -> u32 {
        while at != start {
            let slot = &self.links.slots[at as usize];
            if slot.next != NONE {
                return slot.next;
            }
            at = slot
                .parent
                .as_ref()
                .expect("we came down from `start`")
                .index;
        }
        NONE
    }

    /// Brings one node up to date with its parent. Says whether it has become effectively
    /// cancelled or ceased to be.
    fn inherit(&mut self, index: u32) -> bool {
        let slot = &self.links.slots[index as usize];
        let Some(node) = slot.node.upgrade() else {
            // Its last handle is being dropped, and the destructor waits for our lock. It has no
            // children, since they would hold it; so there is nobody to tell.
            return false;
        };
        let outside = slot
            .parent
            .as_ref()
            .is_some_and(|parent| parent.is_cancelled());
        let before = node.flags();
        let inherited = outside && before & SHIELD == 0;
        node.set(INHERITED, inherited);
        self.visited.push(node);
        let was_cancelled = before & EFFECTIVELY_CANCELLED != 0;
        let is_cancelled = inherited || before & CANCEL_CALLED != 0;
        if was_cancelled == is_cancelled {
            return false;
        }
        self.changed(index, is_cancelled);
        true
    }

    pub(super) fn changed(&mut self, index: u32, is_cancelled: bool) {
        if is_cancelled && let Some(task) = &self.links.slots[index as usize].task {
            self.woken.push(task.clone());
        }
    }
}
