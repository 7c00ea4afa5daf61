//! Who refers to what: a look over everything that the collector knows.
//!
//! `gc.get_referrers` compares each reference with each object that it is asked for. Here they are
//! in a table, so that many can be looked for in one go: `_monkey/rebind.py` does.

use std::os::raw::{c_int, c_void};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::stack::Object;

/// A set of addresses. Nearly every question is answered with no, so that has to be cheap: one look
/// into an open table that is mostly empty.
struct Addresses {
    slots: Vec<usize>,
    shift: u32,
}

impl Addresses {
    fn new(addresses: impl ExactSizeIterator<Item = usize>) -> Self {
        let size = (addresses.len() * 4).next_power_of_two().max(64);
        let mut set = Self {
            slots: vec![0; size],
            shift: usize::BITS - size.trailing_zeros(),
        };
        for address in addresses {
            let slot = set.slot(address);
            set.slots[slot] = address;
        }
        set
    }

    /// Where it is, or the free place where it would be: there always is one.
    #[inline(always)]
    fn slot(&self, address: usize) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = address.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize) >> self.shift;
        while self.slots[slot] != 0 && self.slots[slot] != address {
            slot = (slot + 1) & mask;
        }
        slot
    }

    #[inline(always)]
    fn contains(&self, address: usize) -> bool {
        self.slots[self.slot(address)] == address
    }
}

/// What the visitor is given.
struct Search {
    targets: Addresses,
    /// Whether there are any: reading a type is what takes longest.
    by_kind: bool,
    /// Types whose instances are looked for.
    kinds: Addresses,
    referrer: Object,
    found: Vec<(Object, Object)>,
}

/// Called for each reference. Must neither change nor create objects.
unsafe extern "C" fn visit(referent: Object, search: *mut c_void) -> c_int {
    // SAFETY: `referrers` passes a `Search` that nobody else uses meanwhile, and an object's
    // traversal passes the valid objects that it refers to.
    unsafe {
        let search = &mut *search.cast::<Search>();
        if search.targets.contains(referent as usize)
            || (search.by_kind && search.kinds.contains(ffi::Py_TYPE(referent) as usize))
        {
            search.found.push((search.referrer, referent));
        }
    }
    0
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (objects, targets, kinds, /))]
pub fn referrers<'py>(
    py: Python<'py>,
    objects: &Bound<'py, PyList>,
    targets: &Bound<'py, PyList>,
    kinds: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyList>> {
    let mut search = Search {
        targets: Addresses::new(targets.iter().map(|target| target.as_ptr() as usize)),
        kinds: Addresses::new(kinds.iter().map(|kind| kind.as_ptr() as usize)),
        by_kind: !kinds.is_empty(),
        referrer: std::ptr::null_mut(),
        found: Vec::new(),
    };
    for index in 0..objects.len() {
        // SAFETY: the index is below the length, and nothing in this loop runs Python code that
        // could change the list: a traversal only calls the visitor. The list keeps its objects.
        unsafe {
            let object = ffi::PyList_GET_ITEM(objects.as_ptr(), index as ffi::Py_ssize_t);
            let kind = ffi::Py_TYPE(object);
            if ffi::PyType_HasFeature(kind, ffi::Py_TPFLAGS_HAVE_GC) == 0 {
                continue;
            }
            if let Some(traverse) = (*kind).tp_traverse {
                search.referrer = object;
                traverse(object, visit, (&raw mut search).cast());
            }
        }
    }
    // Before anything is made, hence collected, hence dropped: what was found is held by the list
    // and by its referrers only.
    let found: Vec<_> = search
        .found
        .into_iter()
        // SAFETY: see above.
        .map(|(referrer, referent)| unsafe {
            (
                Bound::from_borrowed_ptr(py, referrer),
                Bound::from_borrowed_ptr(py, referent),
            )
        })
        .collect();
    PyList::new(py, found)
}
