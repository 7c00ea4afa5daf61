//! Cancel scopes: who is effectively cancelled, who is woken, who absorbs.

use std::sync::Arc;
use std::thread;

use aevent_runtime::cancel_tree::{Scope as GenericScope, Woken};
use aevent_runtime::clock::NEVER;

type Scope = GenericScope<&'static str>;

fn enter(parent: &Scope, shield: bool, name: &'static str) -> Scope {
    Scope::child(parent, NEVER, shield, Some(name))
}

fn names(woken: Woken<&'static str>) -> Vec<&'static str> {
    woken.collect()
}

/// For each combination: does the inner scope end up cancelled, whose cancellation is it, who
/// absorbs, and when does it expire?
#[test]
fn table_of_shields_deadlines_and_cancellations() {
    struct Row {
        cancel_outer: bool,
        cancel_inner: bool,
        shield: bool,
        inner_is_cancelled: bool,
        parent_is_cancelled: bool,
        effective_deadline: u64,
    }
    // Outer scope's deadline 10, inner scope's 20.
    #[rustfmt::skip]
    let table = [
        // cancel outer, inner, shield => cancelled, by parent, deadline
        (false, false, false, false, false, 10),
        (false, false, true,  false, false, 20),
        (false, true,  false, true,  false, 0),
        (false, true,  true,  true,  false, 0),
        (true,  false, false, true,  true,  0),
        (true,  false, true,  false, false, 20),
        (true,  true,  false, true,  true,  0),
        (true,  true,  true,  true,  false, 0),
    ];
    let rows = table.map(
        |(outer, inner, shield, cancelled, by_parent, deadline)| Row {
            cancel_outer: outer,
            cancel_inner: inner,
            shield,
            inner_is_cancelled: cancelled,
            parent_is_cancelled: by_parent,
            effective_deadline: deadline,
        },
    );
    for (number, row) in rows.iter().enumerate() {
        // The same outcome whichever is first: cancelling, shielding or entering.
        for order in ["enter first", "cancel first", "shield last"] {
            let root = Scope::root();
            let outer = Scope::child(&root, 10, false, None);
            if order == "cancel first" && row.cancel_outer {
                let _ = outer.cancel();
            }
            let shield_at_entry = row.shield && order != "shield last";
            let inner = Scope::child(&outer, 20, shield_at_entry, None);
            if order != "cancel first" && row.cancel_outer {
                let _ = outer.cancel();
            }
            if row.cancel_inner {
                let _ = inner.cancel();
            }
            if order == "shield last" {
                let _ = inner.set_shield(row.shield);
            }
            let context = format!("row {number}, {order}");
            assert_eq!(inner.is_cancelled(), row.inner_is_cancelled, "{context}");
            assert_eq!(
                inner.parent_is_cancelled(),
                row.parent_is_cancelled,
                "{context}"
            );
            assert_eq!(inner.cancel_called(), row.cancel_inner, "{context}");
            assert_eq!(inner.shield(), row.shield, "{context}");
            assert_eq!(
                inner.effective_deadline(),
                row.effective_deadline,
                "{context}"
            );
            assert_eq!(outer.is_cancelled(), row.cancel_outer, "{context}");
            assert!(!root.is_cancelled(), "{context}");
            // Leaving changes nothing in the answers.
            let _ = inner.close();
            assert_eq!(
                inner.parent_is_cancelled(),
                row.parent_is_cancelled,
                "{context}"
            );
        }
    }
}

#[test]
fn cancelling_wakes_each_newly_cancelled_scope_once_outermost_first() {
    let root = Scope::root();
    let a = enter(&root, false, "a");
    let b = enter(&a, false, "b");
    let _c = enter(&b, false, "c");
    let d = enter(&a, true, "d");
    let _e = enter(&d, false, "e");
    let _f = enter(&a, false, "f");
    let _other = enter(&root, false, "other");
    assert_eq!(names(b.cancel()), ["b", "c"]);
    assert_eq!(names(a.cancel()), ["a", "f"]);
    assert_eq!(names(a.cancel()), [""; 0]);
    assert_eq!(names(b.cancel()), [""; 0]);
    assert_eq!(names(root.cancel()), ["other"]);
    assert!(!d.is_cancelled());
}

#[test]
fn taking_a_shield_down_lets_the_cancellation_in() {
    let root = Scope::root();
    let shielded = enter(&root, true, "shielded");
    let inner = enter(&shielded, false, "inner");
    let innermost = enter(&inner, true, "innermost");
    assert!(root.cancel().is_empty());
    assert!(!inner.is_cancelled());
    assert_eq!(names(shielded.set_shield(false)), ["shielded", "inner"]);
    assert!(inner.is_cancelled() && !innermost.is_cancelled());
    // And up again: what came from outside ends, and can come again.
    assert!(shielded.set_shield(true).is_empty());
    assert!(!inner.is_cancelled() && !inner.parent_is_cancelled());
    assert_eq!(names(inner.cancel()), ["inner"]);
    assert_eq!(names(shielded.set_shield(false)), ["shielded"]);
    assert!(shielded.set_shield(true).is_empty());
    assert!(inner.is_cancelled(), "it was cancelled itself");
    assert!(!inner.parent_is_cancelled(), "so it absorbs");
}

#[test]
fn a_child_of_a_cancelled_scope_is_cancelled_at_once() {
    let root = Scope::root();
    assert!(root.cancel().is_empty());
    let plain = enter(&root, false, "plain");
    let shielded = enter(&root, true, "shielded");
    assert!(plain.is_cancelled() && plain.parent_is_cancelled());
    assert!(!plain.cancel_called());
    assert!(!shielded.is_cancelled());
    assert!(enter(&plain, false, "inner").is_cancelled());
    assert!(!enter(&shielded, false, "inner").is_cancelled());
}

#[test]
fn closing_moves_open_children_out() {
    let root = Scope::root();
    let outer = enter(&root, false, "outer");
    let middle = enter(&outer, false, "middle");
    let inner = enter(&middle, false, "inner");
    assert!(middle.close().is_empty());
    assert!(middle.close().is_empty());
    assert!(middle.is_closed());
    assert!(middle.cancel().is_empty(), "it reaches nobody any more");
    assert!(!inner.is_cancelled());
    assert_eq!(names(outer.cancel()), ["outer", "inner"]);
}

#[test]
fn closing_a_cancelled_scope_frees_its_children() {
    let root = Scope::root();
    let outer = enter(&root, false, "outer");
    let inner = enter(&outer, false, "inner");
    assert_eq!(names(outer.cancel()), ["outer", "inner"]);
    assert!(outer.close().is_empty());
    assert!(!inner.is_cancelled());
    assert!(outer.is_cancelled(), "the closed scope's answer stays");
    assert_eq!(names(root.cancel()), ["inner"]);
}

#[test]
fn closing_a_shield_exposes_its_children() {
    let root = Scope::root();
    let shielded = enter(&root, true, "shielded");
    let inner = enter(&shielded, false, "inner");
    let _innermost = enter(&inner, false, "innermost");
    assert!(root.cancel().is_empty());
    assert_eq!(names(shielded.close()), ["inner", "innermost"]);
    assert!(inner.parent_is_cancelled());
}

#[test]
fn closing_the_root_leaves_its_children_alone() {
    let root = Scope::root();
    let inner = enter(&root, false, "inner");
    assert_eq!(names(root.cancel()), ["inner"]);
    assert!(root.close().is_empty());
    assert!(!inner.is_cancelled());
    assert_eq!(inner.effective_deadline(), NEVER);
    assert_eq!(names(inner.cancel()), ["inner"]);
}

#[test]
fn a_scope_entered_inside_a_closed_one_belongs_to_the_next_open_one() {
    let root = Scope::root();
    let outer = enter(&root, false, "outer");
    let middle = enter(&outer, false, "middle");
    let _ = middle.close();
    let _ = outer.close();
    let late = enter(&middle, false, "late");
    assert_eq!(names(root.cancel()), ["late"]);
    assert!(late.is_cancelled());
}

#[test]
fn a_forgotten_scope_still_shields_and_cancels() {
    let root = Scope::root();
    let shielded = enter(&root, true, "shielded");
    let cancelled = enter(&root, false, "cancelled");
    let (inside, below) = (
        enter(&shielded, false, "inside"),
        enter(&cancelled, false, "below"),
    );
    assert_eq!(cancelled.cancel().len(), 2);
    drop(shielded);
    drop(cancelled);
    assert!(below.is_cancelled());
    let _ = root.cancel();
    assert!(!inside.is_cancelled());
}

#[test]
fn the_effective_deadline_is_the_earliest_up_to_a_shield() {
    let root = Scope::root();
    let a = Scope::child(&root, 10, false, None);
    let b = Scope::child(&a, 5, true, None);
    let c = Scope::child(&b, 7, false, None);
    assert_eq!(root.effective_deadline(), NEVER);
    assert_eq!(c.effective_deadline(), 5);
    b.set_deadline(20);
    assert_eq!((b.deadline(), b.effective_deadline()), (20, 20));
    assert_eq!(c.effective_deadline(), 7);
    let _ = b.set_shield(false);
    c.set_deadline(NEVER);
    assert_eq!(c.effective_deadline(), 10);
    let _ = a.close();
    assert_eq!(c.effective_deadline(), 20);
}

#[test]
fn whom_else_to_ask_for_the_deadline_is_found_up_to_a_shield_and_dropped_on_close() {
    let root = Scope::root();
    let a = Scope::child(&root, 10, true, None);
    let b = Scope::child(&a, 20, false, None);
    let (far, near) = (Arc::new("far"), Arc::new("near"));
    root.set_beyond(Some(far.clone()));
    a.set_beyond(Some(near.clone()));
    let asked = |scope: &Scope| -> Vec<&str> {
        let (_, beyond) = scope.effective_deadlines();
        let found = beyond.iter().map(|(_, what)| what.downcast_ref::<&str>());
        found.map(|what| *what.unwrap()).collect()
    };
    assert_eq!(asked(&b), ["near"]);
    let _ = a.set_shield(false);
    assert_eq!(asked(&b), ["near", "far"]);
    a.set_beyond(None);
    assert_eq!(asked(&b), ["far"]);
    let _ = root.close();
    assert_eq!(asked(&b), [""; 0]);
    root.set_beyond(Some(far.clone()));
    a.set_beyond(Some(near.clone()));
    drop((a, b));
    assert_eq!((Arc::strong_count(&far), Arc::strong_count(&near)), (1, 1));
}

#[test]
fn the_task_to_wake_can_be_set_later_and_is_dropped_on_close() {
    let root = GenericScope::<Arc<&str>>::root();
    let scope = GenericScope::child(&root, NEVER, false, None);
    let (first, second) = (Arc::new("first"), Arc::new("second"));
    scope.set_task(Arc::clone(&first));
    scope.set_task(Arc::clone(&second));
    assert_eq!(Arc::strong_count(&first), 1);
    assert_eq!(scope.cancel().collect::<Vec<_>>(), [Arc::clone(&second)]);
    assert_eq!(Arc::strong_count(&second), 2);
    let _ = scope.close();
    assert_eq!(Arc::strong_count(&second), 1);
    scope.set_task(Arc::clone(&second));
    assert_eq!(Arc::strong_count(&second), 1);
    drop(GenericScope::child(
        &root,
        NEVER,
        false,
        Some(first.clone()),
    ));
    assert_eq!(Arc::strong_count(&first), 1);
}

const MANY: usize = if cfg!(miri) { 100 } else { 100_000 };

#[test]
fn a_deep_chain_neither_recurses_nor_leaks() {
    for close in [false, true] {
        let task = Arc::new(());
        let root = GenericScope::root();
        let mut chain = vec![root.clone()];
        for depth in 0..MANY {
            let child = GenericScope::child(&chain[depth], NEVER, false, Some(Arc::clone(&task)));
            chain.push(child);
        }
        assert_eq!(root.cancel().len(), MANY);
        let innermost = chain.pop().expect("not empty");
        assert_eq!(innermost.effective_deadline(), 0);
        if close {
            // Outermost first, the order that gives each a child to move.
            for scope in chain {
                assert!(scope.close().is_empty());
            }
            assert!(!innermost.is_cancelled());
        } else {
            // The chain now hangs on its innermost scope alone.
            drop(chain);
            assert!(innermost.is_cancelled());
        }
        drop(root);
        drop(innermost);
        assert_eq!(Arc::strong_count(&task), 1);
    }
}

#[test]
fn many_siblings_come_and_go_in_constant_time_each() {
    let root = GenericScope::root();
    let group = GenericScope::child(&root, NEVER, false, None);
    let siblings: Vec<_> = (0..MANY)
        .map(|number| GenericScope::child(&group, NEVER, number % 4 == 0, Some(number)))
        .collect();
    // From the middle outwards, so that neither end of the list is favoured.
    for sibling in siblings[MANY / 4..MANY / 2].iter().rev() {
        let _ = sibling.close();
    }
    let woken: Vec<_> = group.cancel().collect();
    assert!(woken.is_sorted(), "in the order of entering");
    assert_eq!(woken.len(), MANY * 3 / 4 * 3 / 4);
    assert_eq!(
        siblings.iter().filter(|scope| scope.is_cancelled()).count(),
        woken.len()
    );
    assert_eq!(group.close().len(), 0);
}

#[test]
fn threads_may_enter_leave_and_cancel_at_once() {
    let root = GenericScope::<usize>::root();
    thread::scope(|scope| {
        for thread in 0..3 {
            let root = &root;
            scope.spawn(move || {
                for round in 0..MANY / 20 {
                    let group = GenericScope::child(root, NEVER, false, Some(thread));
                    let inner = GenericScope::child(&group, NEVER, round % 2 == 0, Some(thread));
                    let _ = group.cancel();
                    assert_eq!(inner.is_cancelled(), round % 2 == 1);
                    if round % 3 == 0 {
                        let _ = group.close();
                    }
                }
            });
        }
        let root = &root;
        scope.spawn(move || {
            for round in 0..MANY / 20 {
                // Visits the others' scopes while they are being dropped.
                let _ = root.set_shield(round % 2 == 0);
                let below = GenericScope::child(root, NEVER, false, None);
                let _ = below.cancel();
            }
        });
        scope.spawn(move || {
            let other = GenericScope::child(root, NEVER, false, Some(9));
            for _ in 0..MANY / 20 {
                let _ = other.effective_deadline();
            }
            drop(other);
        });
    });
    assert!(root.cancel().is_empty());
}

#[test]
fn a_walk_over_scopes_that_end_meanwhile_is_harmless() {
    for _ in 0..MANY / 100 {
        let root = GenericScope::<usize>::root();
        let scopes: Vec<_> = (0..8)
            .map(|number| GenericScope::child(&root, NEVER, false, Some(number)))
            .collect();
        thread::scope(|scope| {
            scope.spawn(move || drop(scopes));
            scope.spawn(|| root.cancel().count());
        });
        assert!(root.is_cancelled());
    }
}

#[test]
fn that_a_scope_has_caught_something_is_known_after_it_is_left() {
    let scope = enter(&Scope::root(), false, "in it");
    assert!(!scope.caught());
    let _ = scope.cancel();
    scope.note_caught();
    let _ = scope.close();
    assert!(scope.caught() && scope.cancel_called() && scope.is_closed());
}
