//! The end of a stream is found also when it arrives together with the last data.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use aevent_runtime::descriptor;
use aevent_runtime::reactor::{self, Direction, Reactor};

#[test]
#[cfg_attr(miri, ignore = "makes system calls that miri does not know")]
fn a_short_read_does_not_hide_an_end_that_was_reported_with_the_data() {
    let (bell, _ringer) = UnixStream::pair().expect("a socket pair");
    let (mut ours, mut peer) = UnixStream::pair().expect("a socket pair");
    let fd = ours.as_raw_fd();
    descriptor::renew(fd);
    let mut reactor = Reactor::new(bell.as_raw_fd()).expect("a reactor");
    assert!(reactor.wait(fd, Direction::Read, ()).expect("a wait"));

    // One edge for both.
    peer.write_all(b"last").expect("room for four bytes");
    drop(peer);
    let mut woken = 0;
    while woken == 0 {
        let mut batch = reactor.take_batch();
        let count = reactor::wait(reactor.fd(), &mut batch, None).expect("events");
        reactor.dispatch(batch, count, |()| woken += 1);
    }

    let mut buffer = [0; 100];
    assert_eq!(ours.read(&mut buffer).expect("data"), 4);
    reactor.read_short(fd);
    assert!(reactor.may_try(fd, Direction::Read));
    assert_eq!(ours.read(&mut buffer).expect("the end"), 0);
}
