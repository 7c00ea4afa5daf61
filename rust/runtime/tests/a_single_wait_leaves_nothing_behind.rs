//! A wait for a descriptor that is not ours: reported once, and nothing stays registered.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard};

use aevent_runtime::descriptor;
use aevent_runtime::inbox::Inbox;
use aevent_runtime::reactor::{self, Direction, Interest, Reactor};
use support::{Name, registered};

/// One test at a time: some look at descriptor numbers, which all threads share.
static NUMBERS: Mutex<()> = Mutex::new(());

struct Watched {
    reactor: Reactor<Name>,
    /// What is registered besides the descriptors of the test.
    own: usize,
    _bell: Inbox<()>,
    _turn: MutexGuard<'static, ()>,
}

impl Watched {
    fn new() -> Self {
        let turn = NUMBERS.lock().unwrap_or_else(|poison| poison.into_inner());
        let bell = Inbox::new().unwrap();
        let reactor = Reactor::new(bell.bell()).unwrap();
        Self {
            own: registered(reactor.fd()).len(),
            reactor,
            _bell: bell,
            _turn: turn,
        }
    }

    fn look(&mut self) -> Vec<Name> {
        let mut woken = Vec::new();
        let mut batch = self.reactor.take_batch();
        let count = reactor::wait(self.reactor.fd(), &mut batch, Some(0)).unwrap();
        self.reactor.dispatch(batch, count, |name| woken.push(name));
        woken
    }

    /// How many descriptors are registered for the test.
    fn registered(&self) -> usize {
        registered(self.reactor.fd()).len() - self.own
    }
}

/// A pipe's reading and writing end.
fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: two places for two descriptors, which are then owned by the files alone.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// A connection, and one byte of urgent data for its second end, which has arrived.
fn connection_with_urgent_data() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, _) = listener.accept().unwrap();
    let mut poll = libc::pollfd {
        fd: receiver.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: one readable byte, and one valid entry.
    unsafe {
        assert_eq!(
            libc::send(sender.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB),
            1
        );
        assert_eq!(libc::poll(&mut poll, 1, 10_000), 1);
    }
    (sender, receiver)
}

#[test]
fn urgent_data_wake_only_those_who_asked_for_them() {
    let mut watched = Watched::new();
    let (_sender, receiver) = connection_with_urgent_data();
    let fd = receiver.as_raw_fd();
    let reader = watched.reactor.wait_once(fd, Interest::READ, "reader");
    assert_eq!(watched.look(), [""; 0]);
    let urgent = Interest {
        urgent: true,
        ..Interest::READ
    };
    let urgent = watched.reactor.wait_once(fd, urgent, "urgent");
    assert_eq!(watched.look(), ["urgent"]);
    watched.reactor.end_once(reader.unwrap());
    watched.reactor.end_once(urgent.unwrap());
    assert_eq!(watched.registered(), 0);
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn data_in_a_pipe_is_reported_once() {
    let mut watched = Watched::new();
    let (reader, mut writer) = pipe();
    let key = watched
        .reactor
        .wait_once(reader.as_raw_fd(), Interest::READ, "reader")
        .unwrap();
    assert_eq!(watched.look(), [""; 0]);
    writer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["reader"]);
    writer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), [""; 0]);
    watched.reactor.end_once(key);
    assert_eq!(watched.registered(), 0);
}

#[test]
fn what_is_ready_already_is_reported() {
    let mut watched = Watched::new();
    let (reader, writer) = pipe();
    (&writer).write_all(b"x").unwrap();
    let first = watched
        .reactor
        .wait_once(reader.as_raw_fd(), Interest::READ, "reader")
        .unwrap();
    let second = watched
        .reactor
        .wait_once(writer.as_raw_fd(), Interest::WRITE, "writer")
        .unwrap();
    let mut woken = watched.look();
    woken.sort_unstable();
    assert_eq!(woken, ["reader", "writer"]);
    watched.reactor.end_once(first);
    watched.reactor.end_once(second);
    assert_eq!(watched.registered(), 0);
}

#[test]
fn a_wait_that_was_ended_is_not_reported() {
    let mut watched = Watched::new();
    let (reader, mut writer) = pipe();
    let key = watched
        .reactor
        .wait_once(reader.as_raw_fd(), Interest::READ, "reader")
        .unwrap();
    watched.reactor.end_once(key);
    assert_eq!(watched.registered(), 0);
    writer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), [""; 0]);
}

#[test]
fn ending_it_twice_does_not_end_the_next_one() {
    let mut watched = Watched::new();
    let (reader, mut writer) = pipe();
    let fd = reader.as_raw_fd();
    let ended = watched
        .reactor
        .wait_once(fd, Interest::READ, "ended")
        .unwrap();
    watched.reactor.end_once(ended);
    watched.reactor.end_once(ended);
    let next = watched
        .reactor
        .wait_once(fd, Interest::READ, "next")
        .unwrap();
    assert_ne!(ended, next);
    watched.reactor.end_once(ended);
    // Two free entries for one place would give it to both of these.
    let (other_reader, _other_writer) = pipe();
    let other = watched
        .reactor
        .wait_once(other_reader.as_raw_fd(), Interest::READ, "other")
        .unwrap();
    writer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["next"]);
    watched.reactor.end_once(next);
    watched.reactor.end_once(other);
    assert_eq!(watched.registered(), 0);
}

#[test]
fn a_socket_of_ours_can_be_waited_for_as_well() {
    let mut watched = Watched::new();
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let fd = socket.as_raw_fd();
    descriptor::renew(fd);
    let before = open_descriptors();
    assert!(watched.reactor.wait(fd, Direction::Read, "ours").unwrap());
    let keys = ["select", "poll"].map(|name| {
        let key = watched.reactor.wait_once(fd, Interest::READ, name);
        key.unwrap()
    });
    assert_eq!(watched.registered(), 3);
    assert_eq!(open_descriptors(), before + 2, "a duplicate for each");
    watched.look();
    peer.write_all(b"x").unwrap();
    let mut woken = watched.look();
    woken.sort_unstable();
    assert_eq!(woken, ["ours", "poll", "select"]);
    for key in keys {
        watched.reactor.end_once(key);
        watched.reactor.end_once(key);
    }
    assert_eq!(watched.registered(), 1);
    assert_eq!(open_descriptors(), before);
}

#[test]
fn the_hang_up_of_a_pipe_is_reported() {
    let mut watched = Watched::new();
    let (reader, writer) = pipe();
    let key = watched
        .reactor
        .wait_once(reader.as_raw_fd(), Interest::READ, "reader")
        .unwrap();
    drop(writer);
    assert_eq!(watched.look(), ["reader"]);
    watched.reactor.end_once(key);
}

#[test]
fn its_owner_may_close_the_descriptor_meanwhile() {
    let mut watched = Watched::new();
    let (reader, _writer) = pipe();
    let key = watched
        .reactor
        .wait_once(reader.as_raw_fd(), Interest::READ, "reader")
        .unwrap();
    drop(reader);
    assert_eq!(watched.registered(), 0);
    watched.reactor.end_once(key);
    assert_eq!(watched.look(), [""; 0]);
}

fn refused(watched: &mut Watched, fd: RawFd) -> io::Error {
    watched
        .reactor
        .wait_once(fd, Interest::READ, "refused")
        .unwrap_err()
}

#[test]
fn a_regular_file_and_a_closed_number_are_refused() {
    let mut watched = Watched::new();
    let file = File::open("/proc/self/exe").unwrap();
    let error = refused(&mut watched, file.as_raw_fd());
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    let fd = file.as_raw_fd();
    drop(file);
    let error = refused(&mut watched, fd);
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    assert_eq!(watched.registered(), 0);
    // The place that they did not take is given to the next.
    let (reader, mut writer) = pipe();
    let key = watched
        .reactor
        .wait_once(reader.as_raw_fd(), Interest::READ, "reader")
        .unwrap();
    writer.write_all(b"x").unwrap();
    assert_eq!(watched.look(), ["reader"]);
    watched.reactor.end_once(key);
}
