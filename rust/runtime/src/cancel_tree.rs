//! Cancel scopes as a tree, with trio's semantics.
//!
//! A scope is *effectively* cancelled if it was cancelled itself, or if the scope around it is
//! effectively cancelled and no shield keeps that out. Every blocking call asks this question of
//! the innermost scope, so the answer is kept ready in each scope, one atomic load away, and it is
//! the rare event (cancelling, shielding, leaving) that walks the tree.
//!
//! The tree knows nothing of timers and wakes nobody: a deadline is only stored here, and those to
//! be woken are handed back as [`Woken`], to be woken after our lock is released.
//!
//! # Ownership
//!
//! A child holds its parent strongly, so that a scope which is forgotten without being left goes
//! on shielding and cancelling what is inside. A parent knows its children by index and holds them
//! weakly, so there are no cycles, and a scope ends with its last handle. The links, guarded by one
//! mutex per tree, are in one slab per tree; entering a scope allocates its node and nothing else.

mod links;
mod walk;
mod woken;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::{Instant, NEVER};
use links::{
    CANCEL_CALLED, CAUGHT, CLOSED, EFFECTIVELY_CANCELLED, INHERITED, NONE, Node, SHIELD, Tree,
};
use walk::Walk;

pub use links::Beyond;
pub use woken::Woken;

/// A cancel scope: a handle to a node of a tree. Clones are the same scope, and so they compare.
///
/// `W` is what is woken when the scope becomes effectively cancelled: the task inside, or nothing.
/// It is dropped when the scope is closed; a `W` that itself holds the scope keeps it, and with it
/// the tree, until then.
pub struct Scope<W>(Arc<Node<W>>);

impl<W> Clone for Scope<W> {
    fn clone(&self) -> Self {
        Scope(Arc::clone(&self.0))
    }
}

impl<W> PartialEq for Scope<W> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<W> Eq for Scope<W> {}

impl<W: Clone> Scope<W> {
    /// The scope around everything, in a tree of its own: no deadline, no shield, no task.
    pub fn root() -> Self {
        Self::enter(&Tree::new(), None, NEVER, false, None)
    }

    /// Enters a scope inside `parent`; leave it with [`close`](Self::close).
    ///
    /// It is cancelled from the start if the parent is and `shield` is not set; nobody is woken
    /// then, since whoever enters a scope is running. If the parent was closed, the scope belongs
    /// to the next open one around it.
    pub fn child(parent: &Self, deadline: Instant, shield: bool, task: Option<W>) -> Self {
        Self::enter(&parent.0.tree, Some(&parent.0), deadline, shield, task)
    }

    fn enter(
        tree: &Arc<Tree<W>>,
        parent: Option<&Arc<Node<W>>>,
        deadline: Instant,
        shield: bool,
        task: Option<W>,
    ) -> Self {
        let mut links = tree.lock();
        let parent = links.nearest_open(parent);
        let mut flags = if shield { SHIELD } else { 0 };
        if let Some(parent) = &parent
            && !shield
            && parent.is_cancelled()
        {
            flags |= INHERITED;
        }
        let index = links.occupy(parent.clone(), task);
        let node = Arc::new(Node::new(tree, index, flags, deadline));
        links.slots[index as usize].node = Arc::downgrade(&node);
        if let Some(parent) = parent {
            links.append(parent.index, index);
        }
        drop(links);
        Scope(node)
    }

    /// Leaves the scope; does nothing the second time.
    ///
    /// Scopes inside that are still open move out into the scope around this one, and are from
    /// then on cancelled if that is or if they were themselves. This can end the cancellation of
    /// one, and also begin it: if this scope's shield was all that protected it. Those are woken.
    ///
    /// What the flags of a closed scope say stays as it was, so that the decision who absorbs a
    /// cancellation can be made before or after.
    pub fn close(&self) -> Woken<W> {
        let node = &*self.0;
        let mut walk = Walk::new(&node.tree);
        if node.flags() & CLOSED != 0 {
            return walk.finish();
        }
        node.set(CLOSED, true);
        let parent = walk.links.slots[node.index as usize].parent.clone();
        let task = walk.links.slots[node.index as usize].task.take();
        let beyond = walk.links.slots[node.index as usize].beyond.take();
        if let Some(parent) = &parent {
            walk.links.unlink(parent.index, node.index);
        }
        let mut child = walk.links.slots[node.index as usize].first_child;
        walk.links.slots[node.index as usize].first_child = NONE;
        walk.links.slots[node.index as usize].last_child = NONE;
        while child != NONE {
            let next = walk.links.slots[child as usize].next;
            let slot = &mut walk.links.slots[child as usize];
            slot.next = NONE;
            slot.previous = NONE;
            // Drops a reference to the node we are a method of, so never the last one.
            slot.parent = parent.clone();
            if let Some(parent) = &parent {
                walk.links.append(parent.index, child);
            }
            walk.update(child);
            child = next;
        }
        let woken = walk.finish();
        // Only now, with the lock released: a task's destructor may be anything. Our slot still
        // holds the parent, so letting go of this handle of it frees nothing.
        drop((task, beyond));
        woken
    }

    /// Cancels the scope and everything inside that no shield protects; does nothing the second
    /// time. Returns the tasks of the scopes that this has made effectively cancelled.
    ///
    /// On a closed scope it is recorded and affects nobody.
    pub fn cancel(&self) -> Woken<W> {
        let node = &*self.0;
        if node.flags() & CANCEL_CALLED != 0 {
            // Already done or, by another thread, just about to be: that thread has the tasks.
            return Woken::none();
        }
        let mut walk = Walk::new(&node.tree);
        let before = node.flags();
        node.set(CANCEL_CALLED, true);
        if before & (EFFECTIVELY_CANCELLED | CLOSED) == 0 {
            walk.changed(node.index, true);
            walk.descend(node.index);
        }
        walk.finish()
    }

    /// Puts up the shield or takes it down.
    ///
    /// Taking it down lets in a cancellation that waits outside: those whom that concerns are
    /// returned. Putting it up ends a cancellation that came from outside for everything inside,
    /// except what was cancelled itself; who was woken in the meantime finds nothing to raise.
    pub fn set_shield(&self, shield: bool) -> Woken<W> {
        let node = &*self.0;
        let mut walk = Walk::new(&node.tree);
        if node.flags() & CLOSED == 0 && shield != self.shield() {
            node.set(SHIELD, shield);
            walk.update(node.index);
        }
        walk.finish()
    }

    /// Whom to wake when this scope becomes effectively cancelled, instead of whom it was before.
    ///
    /// Does not look whether it already is; on a closed scope, does nothing.
    pub fn set_task(&self, task: W) {
        let mut links = self.0.tree.lock();
        let replaced = if self.0.flags() & CLOSED == 0 {
            links.slots[self.0.index as usize].task.replace(task)
        } else {
            Some(task)
        };
        drop(links);
        drop(replaced);
    }

    /// Notes why the scope is about to be cancelled, unless it was already. For people.
    pub fn set_reason(&self, reason: Box<str>) {
        let mut links = self.0.tree.lock();
        if self.0.flags() & CANCEL_CALLED == 0 {
            links.slots[self.0.index as usize].reason = Some(reason);
        }
    }

    /// Why this scope is effectively cancelled, as far as is known: what the canceller has said of
    /// the nearest scope that was cancelled itself, or that its deadline has come by `now`.
    pub fn reason(&self, now: Instant) -> Option<Box<str>> {
        let links = self.0.tree.lock();
        let mut node = &self.0;
        while node.flags() & CANCEL_CALLED == 0 {
            node = links.slots[node.index as usize].parent.as_ref()?;
        }
        let reason = links.slots[node.index as usize].reason.clone();
        reason.or_else(|| {
            (node.deadline.load(Ordering::Relaxed) <= now).then(|| "its deadline has come".into())
        })
    }

    /// Whether `inner` is inside this scope, which is open.
    pub fn encloses(&self, inner: &Self) -> bool {
        if !Arc::ptr_eq(&self.0.tree, &inner.0.tree) {
            return false;
        }
        let links = self.0.tree.lock();
        let mut parent = &links.slots[inner.0.index as usize].parent;
        while let Some(node) = parent {
            if Arc::ptr_eq(node, &self.0) {
                return true;
            }
            parent = &links.slots[node.index as usize].parent;
        }
        false
    }

    /// The tasks of all open scopes of the tree, outermost first, each with the one that it is inside
    /// of: the task of the nearest scope around it that is `other` than itself.
    pub fn tasks(&self, other: impl Fn(&W, &W) -> bool) -> Vec<(W, Option<W>)> {
        let links = self.0.tree.lock();
        let mut root = self.0.index;
        let mut node = &self.0;
        while let Some(parent) = &links.slots[node.index as usize].parent {
            node = parent;
            root = node.index;
        }
        let mut found: Vec<(W, Option<W>)> = Vec::new();
        let mut left: VecDeque<(u32, Option<W>)> = VecDeque::from([(root, None)]);
        while let Some((index, around)) = left.pop_front() {
            let slot = &links.slots[index as usize];
            let inside = match &slot.task {
                Some(task) if around.as_ref().is_none_or(|around| other(around, task)) => {
                    found.push((task.clone(), around));
                    Some(task.clone())
                }
                _ => around,
            };
            let mut child = slot.first_child;
            while child != NONE {
                left.push_back((child, inside.clone()));
                child = links.slots[child as usize].next;
            }
        }
        drop(links);
        found
    }

    /// The scope around this one: the next open one, if those in between were left. `None`: a root.
    pub fn parent(&self) -> Option<Self> {
        let links = self.0.tree.lock();
        let parent = links.slots[self.0.index as usize].parent.as_ref();
        links.nearest_open(parent).map(Scope)
    }

    /// Whom it wakes, if anybody.
    pub fn task(&self) -> Option<W> {
        self.0.tree.lock().slots[self.0.index as usize].task.clone()
    }

    /// The open scopes directly inside this one, in the order in which they were entered.
    pub fn children(&self) -> Vec<Self> {
        let mut children = Vec::new();
        let links = self.0.tree.lock();
        let mut at = links.slots[self.0.index as usize].first_child;
        while at != NONE {
            let slot = &links.slots[at as usize];
            // One whose last handle is just being dropped has nothing inside.
            children.extend(slot.node.upgrade().map(Scope));
            at = slot.next;
        }
        // Ours may become the last handle of one, whose destructor takes the lock.
        drop(links);
        children
    }

    /// The earliest deadline that can cancel what runs in this scope: of this scope and those
    /// around it, up to the first shield. 0, which is past, if it is effectively cancelled already.
    pub fn effective_deadline(&self) -> Instant {
        self.effective_deadlines().0
    }

    /// The same, and whom else to ask: what [`set_beyond`](Self::set_beyond) was given for those
    /// scopes, the innermost first.
    pub fn effective_deadlines(&self) -> (Instant, Vec<(Self, Beyond)>) {
        let mut found = Vec::new();
        if self.is_cancelled() {
            return (0, found);
        }
        let links = self.0.tree.lock();
        let mut node = &self.0;
        let mut earliest = NEVER;
        loop {
            let slot = &links.slots[node.index as usize];
            earliest = earliest.min(node.deadline.load(Ordering::Relaxed));
            if let Some(beyond) = &slot.beyond {
                found.push((Scope(Arc::clone(node)), Arc::clone(beyond)));
            }
            match &slot.parent {
                Some(parent) if node.flags() & (SHIELD | CLOSED) == 0 => node = parent,
                _ => return (earliest, found),
            }
        }
    }

    /// What else has a deadline for what runs in the scope, shielded or not: something that will
    /// have it cancelled, and is no scope around it in this tree. On a closed scope, does nothing.
    pub fn set_beyond(&self, beyond: Option<Beyond>) {
        let mut links = self.0.tree.lock();
        let former = if self.0.flags() & CLOSED == 0 {
            std::mem::replace(&mut links.slots[self.0.index as usize].beyond, beyond)
        } else {
            beyond
        };
        drop(links);
        drop(former);
    }
}

impl<W> Scope<W> {
    /// Whether the scope is effectively cancelled, by itself or from outside: whether a blocking
    /// call in it must raise. One atomic load.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Whether [`cancel`](Self::cancel) was called on this very scope.
    #[inline]
    pub fn cancel_called(&self) -> bool {
        self.0.flags() & CANCEL_CALLED != 0
    }

    /// Whether the cancellation of a scope around this one is visible in it.
    ///
    /// A scope absorbs the exception iff it was cancelled itself and this is false; otherwise the
    /// exception is meant for a scope further out.
    #[inline]
    pub fn parent_is_cancelled(&self) -> bool {
        self.0.flags() & INHERITED != 0
    }

    /// Notes that the scope has absorbed a cancellation. For people, and whoever asks later.
    pub fn note_caught(&self) {
        let _links = self.0.tree.lock();
        self.0.set(CAUGHT, true);
    }

    /// Whether [`note_caught`](Self::note_caught) was called.
    pub fn caught(&self) -> bool {
        self.0.flags() & CAUGHT != 0
    }

    /// Whether the shield is up.
    #[inline]
    pub fn shield(&self) -> bool {
        self.0.flags() & SHIELD != 0
    }

    /// Whether the scope was left.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.0.flags() & CLOSED != 0
    }

    /// This scope's own deadline.
    #[inline]
    pub fn deadline(&self) -> Instant {
        self.0.deadline.load(Ordering::Relaxed)
    }

    /// Stores a deadline. To set a timer that calls [`cancel`](Self::cancel) is up to the caller.
    #[inline]
    pub fn set_deadline(&self, deadline: Instant) {
        self.0.deadline.store(deadline, Ordering::Relaxed);
    }
}

impl<W> fmt::Debug for Scope<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("cancelled", &self.is_cancelled())
            .field("cancel_called", &self.cancel_called())
            .field("shield", &self.shield())
            .field("closed", &self.is_closed())
            .field("deadline", &self.deadline())
            .finish()
    }
}
