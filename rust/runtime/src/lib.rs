//! The scheduler under aevent, with no Python in it.
//!
//! From the bottom up; each uses only what stands above it:
//!
//! - [`clock`]: the time, as nanoseconds; [`fork`]: which process this is.
//! - [`timers`]: deadlines. [`run_queue`]: who runs next. [`inbox`]: the one door for other threads.
//! - [`descriptor`] and [`reactor`]: readiness of file descriptors.
//! - [`wait_queue`]: locks, semaphores and notifications that anything with a waker can wait for.
//! - [`cancel_tree`]: cancel scopes.
//! - [`quiet`]: who waits until nobody else has anything to do.
//! - [`futures`]: Rust futures that make progress without a task.
//! - [`task`] and [`scheduler`]: what parks, and the scheduler of one OS thread.
//! - [`offload`]: OS threads for calls that block.
//!
//! How a task is run (which stack it is on, what Python thinks of it) is the bindings' business, in
//! `rust/python`.

pub mod cancel_tree;
pub mod clock;
pub mod descriptor;
pub mod fork;
#[cfg(not(loom))]
pub mod futures;
pub mod inbox;
pub mod offload;
pub mod quiet;
pub mod reactor;
pub mod run_queue;
pub mod scheduler;
pub mod task;
pub mod timers;
pub mod wait_queue;
