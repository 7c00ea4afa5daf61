//! What it costs to wait for a descriptor: one of ours, registered once, and a foreign one.
//!
//! The system calls are part of the figures: a write, a read and an `epoll_pwait2` in each, and
//! for the foreign one two `epoll_ctl` more.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use aevent_runtime::inbox::Inbox;
use aevent_runtime::reactor::{self, Direction, Interest, Reactor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn dispatch(reactor: &mut Reactor<RawFd>) {
    let mut batch = reactor.take_batch();
    let count = reactor::wait(reactor.fd(), &mut batch, Some(0)).expect("epoll works");
    let mut woken = 0;
    reactor.dispatch(batch, count, |_| woken += 1);
    assert_eq!(woken, 1);
}

fn wait(criterion: &mut Criterion) {
    for idle in [0, 400] {
        let bell = Inbox::<()>::new().expect("eventfd works");
        let mut reactor = Reactor::new(bell.bell()).expect("epoll works");
        // Others that are registered, with nothing to report.
        let others: Vec<_> = (0..idle)
            .map(|_| UnixStream::pair().expect("socketpair works"))
            .collect();
        for (socket, _) in &others {
            let fd = socket.as_raw_fd();
            let _ = reactor.wait(fd, Direction::Read, fd);
        }
        let (mut socket, mut peer) = UnixStream::pair().expect("socketpair works");
        socket.set_nonblocking(true).expect("it is open");
        let fd = socket.as_raw_fd();
        let _ = reactor.wait(fd, Direction::Read, fd);
        reactor.forget(fd, Direction::Read, |_| true);
        for _ in 0..2 {
            // That each of them can be written to.
            let mut batch = reactor.take_batch();
            let count = reactor::wait(reactor.fd(), &mut batch, Some(0)).expect("epoll works");
            reactor.dispatch(batch, count, |_| {});
        }
        let mut buffer = [0; 64];
        criterion.bench_with_input(BenchmarkId::new("ours", idle), &idle, |bencher, _| {
            bencher.iter(|| {
                let waits = reactor.wait(fd, Direction::Read, fd).expect("registered");
                assert!(waits);
                peer.write_all(b"x").expect("there is room");
                dispatch(&mut reactor);
                let _ = socket.read(&mut buffer).expect("there is data");
                reactor.read_short(fd);
            })
        });
    }
    let bell = Inbox::<()>::new().expect("eventfd works");
    let mut reactor = Reactor::new(bell.bell()).expect("epoll works");
    let (mut socket, mut peer) = UnixStream::pair().expect("socketpair works");
    let fd = socket.as_raw_fd();
    let mut buffer = [0; 64];
    criterion.bench_function("foreign", |bencher| {
        bencher.iter(|| {
            let key = reactor
                .wait_once(fd, Interest::READ, fd)
                .expect("it is open");
            peer.write_all(b"x").expect("there is room");
            dispatch(&mut reactor);
            reactor.end_once(key);
            let _ = socket.read(&mut buffer).expect("there is data");
        })
    });
}

criterion_group!(benches, wait);
criterion_main!(benches);
