//! A socket of ours is registered once, and no edge is lost between a call's `EAGAIN` and the wait.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use aevent_runtime::descriptor;
use aevent_runtime::inbox::Inbox;
use aevent_runtime::reactor::{self, Direction, Reactor};
use support::{Name, registered};

struct Watched {
    reactor: Reactor<Name>,
    _bell: Inbox<()>,
}

impl Watched {
    fn new() -> Self {
        let bell = Inbox::new().unwrap();
        Self {
            reactor: Reactor::new(bell.bell()).unwrap(),
            _bell: bell,
        }
    }

    /// Takes in what has happened, without waiting. Who is woken?
    fn look(&mut self) -> Vec<Name> {
        let mut woken = Vec::new();
        let mut batch = self.reactor.take_batch();
        let count = reactor::wait(self.reactor.fd(), &mut batch, Some(0)).unwrap();
        self.reactor.dispatch(batch, count, |name| woken.push(name));
        woken
    }

    fn close(&mut self, fd: RawFd) -> Vec<Name> {
        let mut woken = Vec::new();
        descriptor::renew(fd);
        self.reactor.closing(fd, |name| woken.push(name));
        woken
    }
}

/// A socket that does not block, new to every reactor, and its peer.
fn pair() -> (UnixStream, UnixStream, RawFd) {
    let (socket, peer) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let fd = socket.as_raw_fd();
    descriptor::renew(fd);
    (socket, peer, fd)
}

fn fill(mut socket: &UnixStream) {
    while socket.write(&[0; 4096]).is_ok() {}
}

use Direction::{Read as R, Write as W};

#[test]
fn data_after_eagain_wakes_the_reader() {
    let mut watched = Watched::new();
    let (_socket, mut peer, fd) = pair();
    assert!(watched.reactor.may_try(fd, R), "nothing is known yet");
    watched.reactor.exhausted(fd, R);
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    assert_eq!(watched.look(), [""; 0]);
    assert!(!watched.reactor.may_try(fd, R));
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["reader"]);
    assert!(watched.reactor.may_try(fd, R));
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), [""; 0], "a waiter is woken once");
}

#[test]
fn data_before_the_registration_wakes_the_reader_too() {
    let mut watched = Watched::new();
    let (_socket, mut peer, fd) = pair();
    watched.reactor.exhausted(fd, R);
    peer.write_all(b"x").unwrap();
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    assert_eq!(watched.look(), ["reader"]);
}

#[test]
fn an_edge_between_eagain_and_the_wait_is_not_missed() {
    let mut watched = Watched::new();
    let (_socket, mut peer, fd) = pair();
    assert!(watched.reactor.wait(fd, R, "first").unwrap());
    watched.reactor.forget(fd, R, |_| true);
    watched.look();
    watched.reactor.exhausted(fd, R);
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), [""; 0]);
    assert!(!watched.reactor.wait(fd, R, "late").unwrap(), "try again");
}

#[test]
fn a_socket_is_registered_once_for_both_directions() {
    let mut watched = Watched::new();
    let (_socket, _peer, fd) = pair();
    assert!(!registered(watched.reactor.fd()).contains(&fd));
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    watched.look();
    // Registering it again would report that it can be written to. There is no such edge.
    watched.reactor.exhausted(fd, W);
    assert!(watched.reactor.wait(fd, W, "writer").unwrap());
    assert_eq!(watched.look(), [""; 0]);
    let count = registered(watched.reactor.fd())
        .into_iter()
        .filter(|&number| number == fd)
        .count();
    assert_eq!(count, 1);
}

#[test]
fn each_direction_wakes_its_own() {
    let mut watched = Watched::new();
    let (socket, mut peer, fd) = pair();
    fill(&socket);
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    assert!(watched.reactor.wait(fd, W, "writer").unwrap());
    assert_eq!(watched.look(), [""; 0]);
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["reader"]);
    assert!(!watched.reactor.may_try(fd, W));
    peer.set_nonblocking(true).unwrap();
    while peer.read(&mut [0; 4096]).is_ok() {}
    assert_eq!(watched.look(), ["writer"]);
}

#[test]
fn everybody_who_waits_for_a_direction_is_woken_in_order() {
    let mut watched = Watched::new();
    let (_socket, mut peer, fd) = pair();
    for name in ["first", "second", "third"] {
        assert!(watched.reactor.wait(fd, R, name).unwrap());
    }
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["first", "second", "third"]);
}

#[test]
fn a_wait_that_is_taken_back_is_not_woken() {
    let mut watched = Watched::new();
    let (_socket, mut peer, fd) = pair();
    for name in ["stays", "goes"] {
        assert!(watched.reactor.wait(fd, R, name).unwrap());
    }
    watched.reactor.forget(fd, R, |&name| name == "goes");
    watched.reactor.forget(fd, W, |_| true);
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["stays"]);
}

#[test]
fn a_short_read_saves_the_try_that_would_say_eagain() {
    let mut watched = Watched::new();
    let (_socket, mut peer, fd) = pair();
    watched.reactor.read_short(fd);
    assert!(
        watched.reactor.may_try(fd, R),
        "not registered: edges of before are not reported"
    );
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["reader"]);
    watched.reactor.read_short(fd);
    assert!(!watched.reactor.may_try(fd, R));
    peer.write_all(b"x").unwrap();
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    assert_eq!(watched.look(), ["reader"]);
}

#[test]
fn after_a_hang_up_a_short_read_is_followed_by_another_try() {
    for how in [Shutdown::Write, Shutdown::Both] {
        let mut watched = Watched::new();
        let (_socket, mut peer, fd) = pair();
        assert!(watched.reactor.wait(fd, R, "reader").unwrap());
        // One edge for the data and the end of the stream.
        peer.write_all(b"x").unwrap();
        peer.shutdown(how).unwrap();
        assert_eq!(watched.look(), ["reader"]);
        watched.reactor.read_short(fd);
        assert!(watched.reactor.may_try(fd, R), "{how:?}");
    }
}

#[test]
fn a_hang_up_wakes_both_directions() {
    let mut watched = Watched::new();
    let (socket, peer, fd) = pair();
    fill(&socket);
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    assert!(watched.reactor.wait(fd, W, "writer").unwrap());
    watched.look();
    drop(peer);
    assert_eq!(watched.look(), ["reader", "writer"]);
}

#[test]
fn closing_wakes_everybody_with_a_changed_generation() {
    let mut watched = Watched::new();
    let (socket, _peer, fd) = pair();
    fill(&socket);
    let generation = descriptor::generation(fd);
    assert!(watched.reactor.wait(fd, R, "reader").unwrap());
    assert!(watched.reactor.wait(fd, W, "writer").unwrap());
    assert_eq!(watched.close(fd), ["reader", "writer"]);
    assert_ne!(descriptor::generation(fd), generation);
    assert!(!registered(watched.reactor.fd()).contains(&fd));
    assert_eq!(watched.close(fd), [""; 0]);
}

/// Makes `fd` the number of another socket, as happens when one is closed where nobody sees it.
fn reuse(fd: RawFd) -> (UnixStream, UnixStream) {
    let (socket, peer) = UnixStream::pair().unwrap();
    // SAFETY: both are open.
    assert_eq!(unsafe { libc::dup2(socket.as_raw_fd(), fd) }, fd);
    descriptor::renew(fd);
    (socket, peer)
}

#[test]
fn a_reused_number_is_registered_anew() {
    let mut watched = Watched::new();
    let (_number, _old_peer, fd) = pair();
    assert!(watched.reactor.wait(fd, R, "old").unwrap());
    watched.look();
    watched.reactor.exhausted(fd, R);
    watched.reactor.forget(fd, R, |_| true);
    let (_socket, mut peer) = reuse(fd);
    assert!(
        watched.reactor.may_try(fd, R),
        "nothing is known of the new one"
    );
    assert!(watched.reactor.wait(fd, R, "new").unwrap());
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["new"]);
}

#[test]
fn events_of_a_former_life_are_ignored() {
    let mut watched = Watched::new();
    let (number, mut old_peer, fd) = pair();
    // Keeps the old registration alive after the number is gone.
    let _old = number.try_clone().unwrap();
    assert!(watched.reactor.wait(fd, R, "old").unwrap());
    watched.look();
    watched.reactor.forget(fd, R, |_| true);
    let (_socket, mut peer) = reuse(fd);
    assert!(watched.reactor.wait(fd, R, "new").unwrap());
    watched.look();
    old_peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), [""; 0]);
    assert!(!watched.reactor.may_try(fd, R));
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["new"]);
}

#[test]
fn a_second_object_for_a_descriptor_hears_of_its_present_state() {
    let mut watched = Watched::new();
    let (_socket, mut peer, fd) = pair();
    assert!(watched.reactor.wait(fd, R, "first object").unwrap());
    peer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["first object"]);
    // The number has a new owner, but it is the same open socket, still registered.
    descriptor::renew(fd);
    assert!(watched.reactor.wait(fd, R, "second object").unwrap());
    assert_eq!(watched.look(), ["second object"]);
}

#[test]
fn what_cannot_be_polled_is_refused_and_nobody_waits() {
    let mut watched = Watched::new();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let fd = file.as_raw_fd();
    descriptor::renew(fd);
    for _ in 0..2 {
        let error = watched.reactor.wait(fd, R, "reader").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(watched.reactor.may_try(fd, R));
    }
    assert_eq!(watched.close(fd), [""; 0]);
}
