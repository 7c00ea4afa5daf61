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

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::clock::{Instant, NEVER};

/// `Scope::cancel` was called.
const CANCEL_CALLED: u8 = 1;
/// The parent is effectively cancelled and we have no shield: its cancellation is visible here.
const INHERITED: u8 = 2;
/// Cancellation of the parent stays outside.
const SHIELD: u8 = 4;
/// `Scope::close` was called. The other bits but `CANCEL_CALLED` do not change any more.
const CLOSED: u8 = 8;

const EFFECTIVELY_CANCELLED: u8 = CANCEL_CALLED | INHERITED;

/// The absent slot.
const NONE: u32 = u32::MAX;

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

struct Node<W> {
    /// The bits above. Changed only under the tree's lock, read without it.
    flags: AtomicU8,
    deadline: AtomicU64,
    /// Where our links are, for as long as the node lives, closed or not.
    index: u32,
    /// The destructor has been here: `index` may be another's by now.
    detached: bool,
    tree: Arc<Tree<W>>,
}

struct Tree<W> {
    links: Mutex<Slab<W>>,
}

/// The links of a node, and what else only matters under the lock.
struct Slot<W> {
    /// The scope around this one. A closed scope keeps it, so that who enters a scope inside a
    /// closed one ends up in the next open one and does not escape all cancellation.
    parent: Option<Arc<Node<W>>>,
    first_child: u32,
    last_child: u32,
    previous: u32,
    /// The next sibling, or the next vacant slot.
    next: u32,
    node: Weak<Node<W>>,
    task: Option<W>,
    /// Why it was cancelled, if the canceller has said so.
    reason: Option<Box<str>>,
}

struct Slab<W> {
    slots: Vec<Slot<W>>,
    vacant: u32,
}

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
    const fn none() -> Self {
        Woken {
            first: None,
            rest: VecDeque::new(),
        }
    }

    fn push(&mut self, task: W) {
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

impl<W: Clone> Scope<W> {
    /// The scope around everything, in a tree of its own: no deadline, no shield, no task.
    pub fn root() -> Self {
        Self::enter(
            &Arc::new(Tree {
                links: Mutex::new(Slab {
                    slots: Vec::new(),
                    vacant: NONE,
                }),
            }),
            None,
            NEVER,
            false,
            None,
        )
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
        let node = Arc::new(Node {
            flags: AtomicU8::new(flags),
            deadline: AtomicU64::new(deadline),
            index,
            detached: false,
            tree: Arc::clone(tree),
        });
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
        drop(task);
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
        if self.is_cancelled() {
            return 0;
        }
        let links = self.0.tree.lock();
        let mut node = &self.0;
        let mut earliest = node.deadline.load(Ordering::Relaxed);
        while node.flags() & (SHIELD | CLOSED) == 0
            && let Some(parent) = &links.slots[node.index as usize].parent
        {
            node = parent;
            earliest = earliest.min(node.deadline.load(Ordering::Relaxed));
        }
        earliest
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

impl<W> Node<W> {
    #[inline(always)]
    fn flags(&self) -> u8 {
        // Acquire, to see what the canceller did before he cancelled.
        self.flags.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn is_cancelled(&self) -> bool {
        self.flags() & EFFECTIVELY_CANCELLED != 0
    }

    /// Only under the tree's lock.
    fn set(&self, bits: u8, to: bool) {
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
        if self.flags() & CLOSED == 0
            && let Some(parent) = &parent
        {
            links.unlink(parent.index, self.index);
        }
        links.vacate(self.index);
        drop(links);
        drop(task);
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

impl<W> Tree<W> {
    fn lock(&self) -> MutexGuard<'_, Slab<W>> {
        // Nothing that we do under the lock panics half-way, but for running out of memory.
        self.links
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<W> Slab<W> {
    fn occupy(&mut self, parent: Option<Arc<Node<W>>>, task: Option<W>) -> u32 {
        let slot = Slot {
            parent,
            first_child: NONE,
            last_child: NONE,
            previous: NONE,
            next: NONE,
            node: Weak::new(),
            task,
            reason: None,
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
    fn append(&mut self, parent: u32, child: u32) {
        let last = self.slots[parent as usize].last_child;
        self.slots[child as usize].previous = last;
        if last == NONE {
            self.slots[parent as usize].first_child = child;
        } else {
            self.slots[last as usize].next = child;
        }
        self.slots[parent as usize].last_child = child;
    }

    fn unlink(&mut self, parent: u32, child: u32) {
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

    fn nearest_open<'a>(&'a self, mut node: Option<&'a Arc<Node<W>>>) -> Option<Arc<Node<W>>> {
        while let Some(closed) = node
            && closed.flags() & CLOSED != 0
        {
            node = self.slots[closed.index as usize].parent.as_ref();
        }
        node.cloned()
    }
}

/// A walk through the tree under its lock.
struct Walk<'a, W> {
    links: MutexGuard<'a, Slab<W>>,
    woken: Woken<W>,
    /// The nodes that were visited. Ours may have become the last reference to one, and then its
    /// destructor takes the lock; so they are dropped after it.
    visited: Vec<Arc<Node<W>>>,
}

impl<'a, W: Clone> Walk<'a, W> {
    fn new(tree: &'a Tree<W>) -> Self {
        Walk {
            links: tree.lock(),
            woken: Woken::none(),
            visited: Vec::new(),
        }
    }

    /// Releases the lock, and then everything that must not be dropped under it.
    fn finish(self) -> Woken<W> {
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
    fn update(&mut self, index: u32) {
        if self.inherit(index) {
            self.descend(index);
        }
    }

    /// Brings everything below a node up to date after the node itself has changed.
    fn descend(&mut self, start: u32) {
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

    fn changed(&mut self, index: u32, is_cancelled: bool) {
        if is_cancelled && let Some(task) = &self.links.slots[index as usize].task {
            self.woken.push(task.clone());
        }
    }
}
