//! The dictionaries of the green threads that use a local.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};

use aevent_runtime::task::Task;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::task::{Payload, TaskRef};

/// Spreads addresses. Nobody can choose the keys, so nothing stronger is needed.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(usize::from(byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        let mixed = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// One green thread's attributes.
pub struct Entry {
    pub dict: Py<PyDict>,
    /// Keeps the task's address from being given to another one, even if the task is dropped without
    /// having ended, in which case nobody calls `forget`.
    _task: Weak<Task<Payload>>,
}

impl Entry {
    pub fn new(dict: Py<PyDict>, task: &TaskRef) -> Self {
        Self {
            dict,
            _task: Arc::downgrade(task),
        }
    }
}

/// By the task's address.
pub type Table = HashMap<usize, Entry, BuildHasherDefault<AddressHasher>>;
