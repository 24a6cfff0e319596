//! Messages over Unix sockets that carry open file descriptors.
//!
//! A frame is a length (4 bytes, least first) and that many bytes of JSON; descriptors travel
//! with the length. These calls block.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most descriptors that one message carries.
pub const MOST: usize = 8;
/// The longest message, in bytes: status tables are the longest there are.
const LONGEST: usize = 16 << 20;

/// Sends one message with the descriptors that belong to it, at most [`MOST`].
pub fn send(
    mut socket: &UnixStream,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len())
        .map_err(io::Error::other)?
        .to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut passed = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !passed.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one message",
        ));
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&length)],
        &mut passed,
        SendFlags::NOSIGNAL,
    )?;
    socket.write_all(&length[sent..])?;
    socket.write_all(&body)
}

/// Waits for one message. The end of the stream is [`io::ErrorKind::UnexpectedEof`].
pub fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut passed = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut length)];
        match rustix::net::recvmsg(socket, &mut parts, &mut passed, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in passed.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    socket.read_exact(&mut length[received..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message of an unlikely length",
        ));
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, fds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"carried over").unwrap();

        send(&here, &"first", &[file.as_fd()]).unwrap();
        send(&here, &("second", 2), &[]).unwrap();

        let (first, fds): (String, _) = receive(&there).unwrap();
        assert_eq!((first.as_str(), fds.len()), ("first", 1));
        let mut same = std::fs::File::from(fds.into_iter().next().unwrap());
        io::Seek::rewind(&mut same).unwrap();
        assert_eq!(io::read_to_string(same).unwrap(), "carried over");
        let (second, fds): ((String, u8), _) = receive(&there).unwrap();
        assert_eq!((second.0.as_str(), second.1, fds.len()), ("second", 2, 0));
    }

    #[test]
    fn the_end_of_the_stream_is_told_from_a_message() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert_eq!(
            receive::<String>(&there).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn no_bytes_from_a_socket_confuse_who_receives() {
        use crate::up::control::Request;
        let framed = |body: &[u8]| [&(body.len() as u32).to_le_bytes()[..], body].concat();
        let enter = framed(br#"{"Enter":"deployment/web"}"#);
        let pods = framed(br#"{"Pods":null}"#);
        let pieces: &[&[u8]] = &[
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01",
            b"null",
            b"{\"Status\":",
            b"\"Status\"",
            b"[[[[[[[[",
        ];
        crate::spoil::fuzz(5_000, &[&enter, &pods], pieces, |bytes| {
            let (mut here, there) = UnixStream::pair().unwrap();
            // Less than the socket holds: nobody waits.
            here.write_all(bytes).unwrap();
            drop(here);
            let received = receive::<Request>(&there);
            let Some((length, rest)) = bytes.split_first_chunk() else {
                return assert!(received.is_err());
            };
            let length = u32::from_le_bytes(*length) as usize;
            match received {
                Ok((request, fds)) => {
                    assert!(fds.is_empty());
                    // What was read is the frame, and all of it.
                    let same: Request = serde_json::from_slice(&rest[..length]).unwrap();
                    assert_eq!(format!("{request:?}"), format!("{same:?}"));
                }
                // Before it makes room for what will not come.
                Err(error) if length > LONGEST => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                }
                Err(_) => {}
            }
        });
    }
}
