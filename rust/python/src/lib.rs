//! `aevent._core`: the bindings of `aevent-runtime` for Python. This file only lists what it exports;
//! see ARCHITECTURE.md for who uses whom.

use pyo3::prelude::*;

mod awaitable;
mod bridge;
mod callable;
mod cancel_scope;
mod channel;
mod child_process;
mod children;
mod condition;
mod context;
mod coroutine;
mod data_stack;
mod docs;
mod driving;
mod ended_thread;
mod errors;
mod event;
mod file;
mod file_lock;
mod finish;
mod forest;
mod heap;
mod lent_context;
mod limiter;
mod local;
mod lock;
mod loop_watch;
mod mock_clock;
mod offload;
mod patched;
mod pause;
mod poll;
mod portal;
mod preempt;
mod python_thread;
mod queue;
mod raw;
mod rlock;
mod run_loop;
mod running_loop;
mod semaphore;
mod shortcut;
mod signals;
mod simple_queue;
mod sleep;
mod socket;
mod ssl;
mod stack;
mod task;
mod task_event;
mod task_group;
mod thread;
mod thread_count;
mod tracing;
mod view;
mod wait;
mod waker;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    stack::import(py)?;
    data_stack::install();
    aevent_runtime::fork::watch();
    socket::check_layout(py)?;

    module.add(
        "BrokenResourceError",
        py.get_type::<errors::BrokenResourceError>(),
    )?;
    module.add(
        "BusyResourceError",
        py.get_type::<errors::BusyResourceError>(),
    )?;
    module.add("Cancelled", py.get_type::<errors::Cancelled>())?;
    module.add(
        "ClosedResourceError",
        py.get_type::<errors::ClosedResourceError>(),
    )?;
    module.add("EndOfStream", py.get_type::<errors::EndOfStream>())?;
    module.add(
        "RunFinishedError",
        py.get_type::<errors::RunFinishedError>(),
    )?;
    module.add("WouldBlock", py.get_type::<errors::WouldBlock>())?;
    patched::register(module)?;
    file::descriptors::register(module)?;
    file::raw_io::register(module)?;
    local::register(module)?;
    pause::register(module)?;
    shortcut::register(module)?;

    module.add_class::<cancel_scope::CancelScope>()?;
    module.add_class::<channel::MemoryReceiveChannel>()?;
    module.add_class::<channel::MemorySendChannel>()?;
    module.add_class::<children::Children>()?;
    module.add_class::<children::Member>()?;
    module.add_class::<condition::Condition>()?;
    module.add_class::<event::Event>()?;
    module.add_class::<limiter::CapacityLimiter>()?;
    // Its own name is that of the type it stands for, `lock`.
    module.add("Lock", py.get_type::<lock::Lock>())?;
    lock::add_methods(module)?;
    simple_queue::add_methods(module)?;
    module.add_class::<rlock::RLock>()?;
    module.add_class::<portal::Portal>()?;
    module.add_class::<semaphore::Semaphore>()?;
    module.add_class::<semaphore::BoundedSemaphore>()?;
    module.add_class::<simple_queue::SimpleQueue>()?;
    module.add_class::<task_event::TaskEvent>()?;
    module.add_class::<task_group::TaskGroup>()?;
    module.add_class::<socket::awaitable::SocketCall>()?;
    module.add_class::<thread::Task>()?;
    module.add_class::<loop_watch::LoopWatch>()?;
    module.add_class::<view::ModuleView>()?;
    module.add_class::<wait::Wait>()?;
    module.add_class::<waker::HostWaker>()?;

    awaitable::register(vec![
        (py.get_type::<task_event::TaskEvent>().unbind(), &["wait"]),
        (py.get_type::<event::Event>().unbind(), &["async_wait"]),
        (py.get_type::<lock::Lock>().unbind(), &["async_acquire"]),
        (
            py.get_type::<semaphore::Semaphore>().unbind(),
            &["async_acquire"],
        ),
        (
            py.get_type::<simple_queue::SimpleQueue>().unbind(),
            &["async_get"],
        ),
        (
            py.get_type::<limiter::CapacityLimiter>().unbind(),
            &["acquire", "acquire_on_behalf_of"],
        ),
        (
            py.get_type::<channel::MemorySendChannel>().unbind(),
            &["send", "aclose"],
        ),
        (
            py.get_type::<channel::MemoryReceiveChannel>().unbind(),
            &["receive", "aclose"],
        ),
    ]);
    module.add_function(wrap_pyfunction!(awaitable::set_wait_on_host, module)?)?;
    module.add_function(wrap_pyfunction!(callable::makes_coroutine, module)?)?;
    module.add_function(wrap_pyfunction!(channel::open_memory_channel, module)?)?;
    module.add_function(wrap_pyfunction!(
        cancel_scope::current_effective_deadline,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(cancel_scope::deadline_here, module)?)?;
    module.add_function(wrap_pyfunction!(context::runner_variable, module)?)?;
    module.add_function(wrap_pyfunction!(context::set_loop_name_variable, module)?)?;
    module.add_function(wrap_pyfunction!(forest::forest, module)?)?;
    module.add_function(wrap_pyfunction!(forest::suspended_frame, module)?)?;
    module.add_function(wrap_pyfunction!(forest::task_of_portal, module)?)?;
    module.add_function(wrap_pyfunction!(heap::referrers, module)?)?;
    module.add_function(wrap_pyfunction!(local::adopt_local, module)?)?;
    module.add_function(wrap_pyfunction!(child_process::wait_child, module)?)?;
    module.add_function(wrap_pyfunction!(file_lock::wait_flock, module)?)?;
    module.add_function(wrap_pyfunction!(file_lock::wait_record_lock, module)?)?;
    module.add_function(wrap_pyfunction!(file::buffered::buffered_method, module)?)?;
    module.add_function(wrap_pyfunction!(file::buffered::find_word, module)?)?;
    module.add_function(wrap_pyfunction!(
        file::buffered::set_buffered_owner,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(
        file::buffered::set_class_attribute,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(file::buffered::watch_buffered, module)?)?;
    module.add_function(wrap_pyfunction!(file::opening::open_fifo, module)?)?;
    module.add_function(wrap_pyfunction!(file::opening::is_fifo, module)?)?;
    file::opening::register(module)?;
    module.add_function(wrap_pyfunction!(loop_watch::wait_until_held_up, module)?)?;
    module.add_function(wrap_pyfunction!(loop_watch::watches_changed, module)?)?;
    module.add_function(wrap_pyfunction!(mock_clock::clock_offset_ns, module)?)?;
    module.add_function(wrap_pyfunction!(mock_clock::current_time, module)?)?;
    module.add_function(wrap_pyfunction!(mock_clock::current_time_ns, module)?)?;
    module.add_function(wrap_pyfunction!(mock_clock::give_up_clock, module)?)?;
    module.add_function(wrap_pyfunction!(mock_clock::jump_clock, module)?)?;
    module.add_function(wrap_pyfunction!(mock_clock::set_clock, module)?)?;
    module.add_function(wrap_pyfunction!(mock_clock::wait_quiet, module)?)?;
    module.add_function(wrap_pyfunction!(offload::offload, module)?)?;
    module.add_function(wrap_pyfunction!(offload::start_worker, module)?)?;
    module.add_function(wrap_pyfunction!(running_loop::keep_running_loops, module)?)?;
    module.add_function(wrap_pyfunction!(
        running_loop::keep_generator_hooks,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(running_loop::set_running_loop, module)?)?;
    module.add_function(wrap_pyfunction!(wait::shielded_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(poll::wait_descriptors, module)?)?;
    module.add_function(wrap_pyfunction!(poll::descriptor_wait, module)?)?;
    module.add_function(wrap_pyfunction!(poll::notify_closing, module)?)?;
    module.add_function(wrap_pyfunction!(
        portal::replacement::replace_coroutine,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(preempt::hold_preemption, module)?)?;
    module.add_function(wrap_pyfunction!(preempt::preempt, module)?)?;
    module.add_function(wrap_pyfunction!(preempt::set_preemption, module)?)?;
    module.add_function(wrap_pyfunction!(preempt::set_preemption_points, module)?)?;
    module.add_function(wrap_pyfunction!(python_thread::set_thread_hooks, module)?)?;
    module.add_function(wrap_pyfunction!(queue::queue_methods, module)?)?;
    module.add_function(wrap_pyfunction!(signals::deliver_signal, module)?)?;
    module.add_function(wrap_pyfunction!(signals::on_handler_failure, module)?)?;
    module.add_function(wrap_pyfunction!(signals::open_signalfd, module)?)?;
    module.add_function(wrap_pyfunction!(signals::set_signal_handler, module)?)?;
    module.add_function(wrap_pyfunction!(signals::signal_handler, module)?)?;
    module.add_function(wrap_pyfunction!(signals::wait_for_handler, module)?)?;
    module.add_function(wrap_pyfunction!(socket::call::socket_call, module)?)?;
    module.add_function(wrap_pyfunction!(socket::socket_closing, module)?)?;
    module.add_function(wrap_pyfunction!(
        socket::file_object::socket_io_methods,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(
        socket::file_object::socket_writer_method,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(socket::call::socket_connect, module)?)?;
    module.add_function(wrap_pyfunction!(socket::socket_opened, module)?)?;
    socket::receive::RECV.add(module)?;
    socket::send::SENDALL.add(module)?;
    socket::receive::RECV_INTO.add(module)?;
    module.add_function(wrap_pyfunction!(socket::send::socket_send, module)?)?;
    ssl::CALL.add(module)?;
    ssl::READ.add(module)?;
    ssl::WRITE.add(module)?;
    module.add_function(wrap_pyfunction!(
        task_group::hooks::set_group_hooks,
        module
    )?)?;
    module.add_function(wrap_pyfunction!(thread::adjust_native, module)?)?;
    module.add_function(wrap_pyfunction!(thread::all_tasks, module)?)?;
    module.add_function(wrap_pyfunction!(tracing::separate_profilers, module)?)?;
    module.add_function(wrap_pyfunction!(tracing::settrace, module)?)?;
    module.add_function(wrap_pyfunction!(tracing::set_tracing_functions, module)?)?;
    module.add_function(wrap_pyfunction!(tracing::setprofile, module)?)?;
    module.add_function(wrap_pyfunction!(tracing::settrace_all_threads, module)?)?;
    module.add_function(wrap_pyfunction!(tracing::setprofile_all_threads, module)?)?;
    module.add_function(wrap_pyfunction!(driving::print_exception, module)?)?;
    module.add_function(wrap_pyfunction!(driving::print_ignored, module)?)?;
    module.add_function(wrap_pyfunction!(driving::call_handling, module)?)?;
    module.add_function(wrap_pyfunction!(driving::after_fork_in_child, module)?)?;
    module.add_function(wrap_pyfunction!(portal::awaiting::await_here, module)?)?;
    module.add_function(wrap_pyfunction!(lent_context::lend_context, module)?)?;
    module.add_function(wrap_pyfunction!(lent_context::take_context_back, module)?)?;
    module.add_function(wrap_pyfunction!(sleep::checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(sleep::breathe, module)?)?;
    module.add_function(wrap_pyfunction!(sleep::checkpoint_if_cancelled, module)?)?;
    module.add_function(wrap_pyfunction!(thread::current_task, module)?)?;
    module.add_function(wrap_pyfunction!(thread::main_task, module)?)?;
    module.add_function(wrap_pyfunction!(thread::current_thread, module)?)?;
    module.add_function(wrap_pyfunction!(driving::ask_for_tick, module)?)?;
    module.add_function(wrap_pyfunction!(driving::driver, module)?)?;
    module.add_function(wrap_pyfunction!(driving::get_host, module)?)?;
    module.add_function(wrap_pyfunction!(thread::in_task, module)?)?;
    module.add_function(wrap_pyfunction!(driving::loop_fd, module)?)?;
    module.add_function(wrap_pyfunction!(thread::replace_native, module)?)?;
    module.add_function(wrap_pyfunction!(driving::run_native, module)?)?;
    module.add_function(wrap_pyfunction!(driving::set_host, module)?)?;
    module.add_function(wrap_pyfunction!(thread::set_home, module)?)?;
    sleep::SLEEP.add(module)?;
    module.add_function(wrap_pyfunction!(driving::set_main, module)?)?;
    module.add_function(wrap_pyfunction!(driving::start_main, module)?)?;
    module.add_function(wrap_pyfunction!(thread::start_new_thread, module)?)?;
    module.add_function(wrap_pyfunction!(thread::start_thread, module)?)?;
    module.add_function(wrap_pyfunction!(driving::statistics, module)?)?;
    module.add_function(wrap_pyfunction!(thread::task_kind, module)?)?;
    module.add_function(wrap_pyfunction!(thread_count::thread_count, module)?)?;
    module.add_function(wrap_pyfunction!(thread::thread_ident, module)?)?;
    module.add_function(wrap_pyfunction!(rlock::owner_ident, module)?)?;
    module.add_function(wrap_pyfunction!(driving::tick, module)?)?;
    module.add_function(wrap_pyfunction!(driving::watch_signals, module)?)?;
    docs::attach(module)
}
