//! Memory channels: a bounded buffer between tasks. Semantics trio's.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::errors;

mod ends;

pub use ends::{MemoryReceiveChannel, MemorySendChannel, open_memory_channel};

/// Somebody who waits to send or to receive.
struct Place {
    /// By which clone, so that closing that one ends the wait.
    end: usize,
    turn: Mutex<Turn>,
}

struct Turn {
    waker: Waker,
    /// What is to be sent, until somebody takes it; or what was received, until the waiter does.
    value: Option<Py<PyAny>>,
    outcome: Option<Outcome>,
}

/// How a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The waiter's own end was closed.
    Closed,
    /// Every other end was.
    OthersClosed,
}

impl Place {
    fn new(end: usize, waker: &Waker, value: Option<Py<PyAny>>) -> Arc<Self> {
        Arc::new(Self {
            end,
            turn: Mutex::new(Turn {
                waker: waker.clone(),
                value,
                outcome: None,
            }),
        })
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// The wait has ended. For a receiver, with `value`; a sender's is returned.
    fn end(&self, outcome: Outcome, value: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        let (waker, former) = {
            let mut turn = self.turn();
            turn.outcome = Some(outcome);
            let waker = std::mem::replace(&mut turn.waker, Waker::noop().clone());
            (waker, std::mem::replace(&mut turn.value, value))
        };
        waker.wake();
        former
    }
}

/// What went wrong, or nothing.
enum Refused {
    Closed,
    OthersClosed,
    WouldBlock,
}

/// What both ends of a channel share.
pub struct Channel(UnsafeCell<Inner>);

struct Inner {
    buffer: VecDeque<Py<PyAny>>,
    /// `usize::MAX`: any number.
    capacity: usize,
    senders: VecDeque<Arc<Place>>,
    receivers: VecDeque<Arc<Place>>,
    open_senders: usize,
    open_receivers: usize,
    next_end: usize,
}

// SAFETY: `inner` is reached with the interpreter attached, whose lock serialises it. Nothing that
// runs Python code happens while it is borrowed: values are moved, and dropped afterwards.
unsafe impl Sync for Channel {}
// SAFETY: as above.
unsafe impl Send for Channel {}

impl Channel {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(Inner {
            buffer: VecDeque::new(),
            capacity,
            senders: VecDeque::new(),
            receivers: VecDeque::new(),
            open_senders: 0,
            open_receivers: 0,
            next_end: 0,
        })))
    }

    #[allow(clippy::mut_from_ref)]
    fn inner(&self) -> &mut Inner {
        // SAFETY: see the `Sync` implementation.
        unsafe { &mut *self.0.get() }
    }

    /// A number for a new end.
    fn number(&self) -> usize {
        let inner = self.inner();
        inner.next_end += 1;
        inner.next_end
    }

    /// Sends without waiting. The value is given back if that is impossible.
    fn send(&self, value: Py<PyAny>) -> Result<(), (Refused, Py<PyAny>)> {
        let inner = self.inner();
        if inner.open_receivers == 0 {
            return Err((Refused::OthersClosed, value));
        }
        if let Some(receiver) = inner.receivers.pop_front() {
            receiver.end(Outcome::Done, Some(value));
            return Ok(());
        }
        if inner.buffer.len() < inner.capacity {
            inner.buffer.push_back(value);
            return Ok(());
        }
        Err((Refused::WouldBlock, value))
    }

    /// Receives without waiting. Who waits to send has room then.
    fn receive(&self) -> Result<Py<PyAny>, Refused> {
        let inner = self.inner();
        if let Some(sender) = inner.senders.pop_front() {
            let value = sender.end(Outcome::Done, None);
            inner.buffer.extend(value);
        }
        match inner.buffer.pop_front() {
            Some(value) => Ok(value),
            None if inner.open_senders == 0 => Err(Refused::OthersClosed),
            None => Err(Refused::WouldBlock),
        }
    }

    /// One sending end fewer.
    fn close_sender(&self, end: usize) {
        let inner = self.inner();
        inner.open_senders -= 1;
        let mut values = end_all(&mut inner.senders, Some(end), Outcome::Closed);
        if inner.open_senders == 0 {
            values.extend(end_all(
                &mut self.inner().receivers,
                None,
                Outcome::OthersClosed,
            ));
        }
    }

    /// One receiving end fewer.
    fn close_receiver(&self, end: usize) {
        let inner = self.inner();
        inner.open_receivers -= 1;
        let mut values = end_all(&mut inner.receivers, Some(end), Outcome::Closed);
        if self.inner().open_receivers == 0 {
            values.extend(end_all(
                &mut self.inner().senders,
                None,
                Outcome::OthersClosed,
            ));
            // Dropped when the channel is no longer borrowed: finalizers may use it.
            values.extend(std::mem::take(&mut self.inner().buffer));
        }
    }

    /// What was handed over to a receiver that has given up goes to the next, or back.
    fn return_value(&self, value: Py<PyAny>) {
        let inner = self.inner();
        if inner.open_receivers == 0 {
            // Nobody could ever receive it: dropped, as what was in the buffer then.
            return;
        }
        match inner.receivers.pop_front() {
            Some(receiver) => {
                receiver.end(Outcome::Done, Some(value));
            }
            None => inner.buffer.push_front(value),
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: see the `Sync` implementation; the collector's visitors change nothing.
        for value in unsafe { &(*self.0.get()).buffer } {
            visit.call(value)?;
        }
        Ok(())
    }

    fn clear(&self) {
        drop(std::mem::take(&mut self.inner().buffer));
    }
}

/// Ends the waits at `end`, or all of them, and returns what was to be sent.
fn end_all(
    places: &mut VecDeque<Arc<Place>>,
    end: Option<usize>,
    outcome: Outcome,
) -> Vec<Py<PyAny>> {
    let (ended, left): (VecDeque<_>, VecDeque<_>) = std::mem::take(places)
        .into_iter()
        .partition(|place| end.is_none_or(|end| place.end == end));
    *places = left;
    ended
        .iter()
        .filter_map(|place| place.end(outcome, None))
        .collect()
}

/// The exception for a refusal, when the other ends that are gone are those that send, or receive.
fn error(refused: &Refused, others_send: bool) -> PyErr {
    match refused {
        Refused::Closed => {
            errors::ClosedResourceError::new_err("this end of the channel is closed")
        }
        Refused::WouldBlock => errors::WouldBlock::new_err(()),
        Refused::OthersClosed if others_send => {
            errors::EndOfStream::new_err("every sending end of the channel is closed")
        }
        Refused::OthersClosed => {
            errors::BrokenResourceError::new_err("every receiving end of the channel is closed")
        }
    }
}

/// What a wait waits for.
trait Direction: Send + Sync + 'static {
    /// Whether those who are gone when there is an error are senders.
    const OTHERS_SEND: bool;
    /// Tries, and says that it is done, refused, or to be waited for. What was received goes to `value`.
    fn attempt(channel: &Channel, value: &mut Option<Py<PyAny>>) -> Result<(), Refused>;
    /// Those who wait in this direction. Borrowed as by `Channel::inner`.
    #[allow(clippy::mut_from_ref)]
    fn places(channel: &Channel) -> &mut VecDeque<Arc<Place>>;
}

struct Sending;
struct Receiving;

impl Direction for Sending {
    const OTHERS_SEND: bool = false;

    fn attempt(channel: &Channel, value: &mut Option<Py<PyAny>>) -> Result<(), Refused> {
        let Some(given) = value.take() else {
            return Ok(());
        };
        channel.send(given).map_err(|(refused, given)| {
            *value = Some(given);
            refused
        })
    }

    fn places(channel: &Channel) -> &mut VecDeque<Arc<Place>> {
        &mut channel.inner().senders
    }
}

impl Direction for Receiving {
    const OTHERS_SEND: bool = true;

    fn attempt(channel: &Channel, value: &mut Option<Py<PyAny>>) -> Result<(), Refused> {
        *value = Some(channel.receive()?);
        Ok(())
    }

    fn places(channel: &Channel) -> &mut VecDeque<Arc<Place>> {
        &mut channel.inner().receivers
    }
}

/// One wait to send or to receive, by whomever.
struct ChannelWait<D: Direction> {
    channel: Arc<Channel>,
    end: usize,
    /// Whether that end is closed.
    is_closed: Box<dyn Fn() -> bool + Send + Sync>,
    value: Option<Py<PyAny>>,
    place: Option<Arc<Place>>,
    refused: Option<Refused>,
    /// It is one step of `async for`, which ends with the stream.
    iterates: bool,
    direction: std::marker::PhantomData<D>,
}

impl<D: Direction> ChannelWait<D> {
    fn new(
        channel: Arc<Channel>,
        end: usize,
        is_closed: Box<dyn Fn() -> bool + Send + Sync>,
        value: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            channel,
            end,
            is_closed,
            value,
            place: None,
            refused: None,
            iterates: false,
            direction: std::marker::PhantomData,
        }
    }
}

impl<D: Direction> crate::wait::Pollable for ChannelWait<D> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(place) = &self.place {
            let mut turn = place.turn();
            let Some(outcome) = turn.outcome else {
                turn.waker.clone_from(cx.waker());
                return Poll::Pending;
            };
            self.value = turn.value.take();
            drop(turn);
            self.place = None;
            self.refused = match outcome {
                Outcome::Done => None,
                Outcome::Closed => Some(Refused::Closed),
                Outcome::OthersClosed => Some(Refused::OthersClosed),
            };
            return Poll::Ready(());
        }
        if (self.is_closed)() {
            self.refused = Some(Refused::Closed);
            return Poll::Ready(());
        }
        match D::attempt(&self.channel, &mut self.value) {
            Ok(()) => Poll::Ready(()),
            Err(Refused::WouldBlock) => {
                let place = Place::new(self.end, cx.waker(), self.value.take());
                D::places(&self.channel).push_back(place.clone());
                self.place = Some(place);
                Poll::Pending
            }
            Err(refused) => {
                self.refused = Some(refused);
                Poll::Ready(())
            }
        }
    }

    fn result(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.refused.take() {
            Some(Refused::OthersClosed) if self.iterates => Err(PyStopAsyncIteration::new_err(())),
            Some(refused) => Err(error(&refused, D::OTHERS_SEND)),
            None => Ok(self.value.take().unwrap_or_else(|| py.None())),
        }
    }

    fn cancel(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        let mut turn = place.turn();
        let (outcome, value) = (turn.outcome, turn.value.take());
        drop(turn);
        match outcome {
            None => D::places(&self.channel).retain(|other| !Arc::ptr_eq(other, &place)),
            Some(_) => {
                if let Some(value) = value
                    && D::OTHERS_SEND
                {
                    self.channel.return_value(value);
                }
            }
        }
    }
}

impl<D: Direction> Drop for ChannelWait<D> {
    fn drop(&mut self) {
        crate::wait::Pollable::cancel(self);
    }
}
