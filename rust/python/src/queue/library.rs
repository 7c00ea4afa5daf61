//! What `put` and `get` have to know of the module `queue` and of the classes they meet, looked up
//! once.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::OnceLock;

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::attributes::ATTRIBUTES;
use super::remembered::Memory;
use crate::condition::Condition;
use crate::lock::Lock;
use crate::stack::Object;

const HOOKS: [&str; 3] = ["_put", "_get", "_qsize"];

/// In which order a class hands its items out, as far as we know it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By hooks that are not the standard library's.
    Custom,
    Fifo,
    Lifo,
    Priority,
}

/// How many classes are remembered.
const KNOWN_CLASSES: usize = 64;

/// What is looked up once. All references are owned, for ever.
pub(super) struct Library {
    pub(super) attributes: [Object; ATTRIBUTES.len()],
    /// How many of the attributes this Python has.
    pub(super) attribute_count: usize,
    pub(super) hook_names: [Object; HOOKS.len()],
    /// The hooks of each order.
    pub(super) hooks: Vec<(Order, [Object; HOOKS.len()])>,
    pub(super) original_put: Object,
    pub(super) original_get: Object,
    pub(super) empty: Object,
    pub(super) full: Object,
    /// Null before Python 3.13.
    pub(super) shut_down: Object,
    pub(super) one: Object,
    pub(super) item: Object,
    pub(super) block: Object,
    pub(super) timeout: Object,
    pub(super) deque: *mut ffi::PyTypeObject,
    pub(super) deque_append: ffi::PyCFunction,
    pub(super) deque_popleft: ffi::PyCFunction,
    pub(super) heappush: Object,
    pub(super) heappop: Object,
    pub(super) condition: *mut ffi::PyTypeObject,
    pub(super) lock: *mut ffi::PyTypeObject,
    /// The orders of classes, by the versions of the classes: a version belongs to one state of one
    /// class for ever, so what was found out about it stays true.
    pub(super) known: [Cell<(u32, Order)>; KNOWN_CLASSES],
    pub(super) memory: Memory,
}

// SAFETY: reached with the interpreter attached only, whose lock serialises it; the cells are read
// and written in one step each.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

pub(super) static LIBRARY: OnceLock<Library> = OnceLock::new();

impl Library {
    #[inline(always)]
    pub(super) fn order_of(&self, kind: *mut ffi::PyTypeObject) -> Order {
        // SAFETY: a type is valid as long as its instance, our caller's `self`.
        let version = unsafe { (*kind).tp_version_tag };
        let known = &self.known[version as usize % KNOWN_CLASSES];
        let (known_version, order) = known.get();
        if version == known_version && version != 0 {
            return order;
        }
        self.find_order(kind)
    }

    #[cold]
    fn find_order(&self, kind: *mut ffi::PyTypeObject) -> Order {
        // SAFETY: attached, like every caller.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: a valid type, see `order_of`.
        let class = unsafe { Borrowed::from_ptr(py, kind.cast()) };
        let mut hooks = [null_mut(); HOOKS.len()];
        for (hook, name) in hooks.iter_mut().zip(HOOKS) {
            match class.getattr(name) {
                // Compared only, so a borrowed address will do.
                Ok(found) => *hook = found.as_ptr(),
                Err(_) => return Order::Custom,
            }
        }
        let known = self.hooks.iter().find(|(_, known)| *known == hooks);
        // SAFETY: as above.
        let plain = unsafe {
            (*kind).tp_getattro.is_some_and(|slot| {
                std::ptr::fn_addr_eq(slot, ffi::PyObject_GenericGetAttr as ffi::getattrofunc)
            }) && (*kind).tp_setattro.is_some_and(|slot| {
                std::ptr::fn_addr_eq(slot, ffi::PyObject_GenericSetAttr as ffi::setattrofunc)
            })
        };
        // A property of that name would come before the instance's dictionary.
        let shadowed = ATTRIBUTES
            .iter()
            .any(|name| class.hasattr(name).unwrap_or(true));
        let order = match known {
            Some((order, _)) if plain && !shadowed => *order,
            _ => Order::Custom,
        };
        // The look-ups have given the class a version, if it had none.
        // SAFETY: as above.
        let version = unsafe { (*kind).tp_version_tag };
        self.known[version as usize % KNOWN_CLASSES].set((version, order));
        order
    }
}

/// The C function behind a builtin method, if it takes its arguments as `flags` say.
fn c_function(method: &Bound<'_, PyAny>, flags: c_int) -> Option<ffi::PyCFunction> {
    // SAFETY: the type is checked before it is relied on.
    unsafe {
        if ffi::PyCFunction_CheckExact(method.as_ptr()) == 0
            || ffi::PyCFunction_GetFlags(method.as_ptr()) != flags
        {
            return None;
        }
        ffi::PyCFunction_GetFunction(method.as_ptr())
    }
}

/// Whether a function is one of the module's own: not somebody's wrapper, say.
fn is_own(module: &Bound<'_, PyModule>, function: &Bound<'_, PyAny>) -> bool {
    function
        .getattr("__globals__")
        .is_ok_and(|globals| globals.is(module.dict()))
}

pub(super) fn build(module: &Bound<'_, PyModule>) -> PyResult<Option<Library>> {
    let py = module.py();
    let keep = |object: Bound<'_, PyAny>| object.into_ptr();
    let name = |text: &str| PyString::intern(py, text).into_ptr();
    let deque = module.getattr("deque")?;
    let sample = deque.call0()?;
    let (Some(deque_append), Some(deque_popleft)) = (
        c_function(&sample.getattr("append")?, ffi::METH_O),
        c_function(&sample.getattr("popleft")?, ffi::METH_NOARGS),
    ) else {
        return Ok(None);
    };
    let queue_class = module.getattr("Queue")?;
    let (original_put, original_get) = (queue_class.getattr("put")?, queue_class.getattr("get")?);
    if !is_own(module, &original_put) || !is_own(module, &original_get) {
        return Ok(None);
    }
    let mut hooks = Vec::new();
    for (order, class) in [
        (Order::Fifo, "Queue"),
        (Order::Lifo, "LifoQueue"),
        (Order::Priority, "PriorityQueue"),
    ] {
        let class = module.getattr(class)?;
        let found = HOOKS.map(|name| class.getattr(name).ok().filter(|hook| is_own(module, hook)));
        if let [Some(put), Some(get), Some(qsize)] = found {
            hooks.push((order, [put, get, qsize].map(keep)));
        }
    }
    let shut_down = module.getattr_opt("ShutDown")?;
    Ok(Some(Library {
        attributes: ATTRIBUTES.map(name),
        attribute_count: ATTRIBUTES.len() - usize::from(shut_down.is_none()),
        hook_names: HOOKS.map(name),
        hooks,
        original_put: keep(original_put),
        original_get: keep(original_get),
        empty: keep(module.getattr("Empty")?),
        full: keep(module.getattr("Full")?),
        shut_down: shut_down.map_or(null_mut(), keep),
        one: 1_i32.into_pyobject(py)?.into_any().into_ptr(),
        item: name("item"),
        block: name("block"),
        timeout: name("timeout"),
        deque: keep(deque).cast(),
        deque_append,
        deque_popleft,
        heappush: keep(module.getattr("heappush")?),
        heappop: keep(module.getattr("heappop")?),
        condition: py.get_type::<Condition>().into_ptr().cast(),
        lock: py.get_type::<Lock>().into_ptr().cast(),
        known: [const { Cell::new((0, Order::Custom)) }; KNOWN_CLASSES],
        memory: Memory::new(py)?,
    }))
}
