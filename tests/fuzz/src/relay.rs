//! What clients send to the embedded relay, as far as our own code reads it: the frames of WebSocket messages,
//! which must not grow too long.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use agent_compute::relay::local::limit::Limited;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::tape::Tape;

/// Reads all of `bytes` through the limit, so many at a time. Says after how many it was refused.
fn refused_after(bytes: &[u8], most: u64, at_once: usize) -> Option<usize> {
    let mut stream = Limited::new(bytes, most);
    let mut context = Context::from_waker(Waker::noop());
    let mut buffer = vec![0; at_once];
    let mut passed = 0;
    loop {
        let mut read = ReadBuf::new(&mut buffer);
        match Pin::new(&mut stream).poll_read(&mut context, &mut read) {
            Poll::Ready(Ok(())) if read.filled().is_empty() => return None,
            Poll::Ready(Ok(())) => {
                assert_eq!(read.filled(), &bytes[passed..passed + read.filled().len()]);
                passed += read.filled().len();
            }
            Poll::Ready(Err(_)) => return Some(passed),
            Poll::Pending => panic!("bytes at hand don't wait"),
        }
    }
}

/// The place after the first header that makes a message too long, by RFC 6455 as read here.
fn too_long_at(bytes: &[u8], most: u64) -> Option<usize> {
    let (mut at, mut message) = (0_usize, 0_u128);
    loop {
        let header = bytes.get(at..)?;
        let (&first, &second) = (header.first()?, header.get(1)?);
        let (size, length) = match second & 0x7f {
            126 => (
                4,
                u128::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?)),
            ),
            127 => (
                10,
                u128::from(u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)),
            ),
            short => (2, u128::from(short)),
        };
        let size = size + if second & 0x80 == 0 { 0 } else { 4 };
        header.get(..size)?;
        match first & 0x0f {
            0 => message += length,
            1..=7 => message = length,
            _ => {}
        }
        if message.max(length) > u128::from(most) {
            return Some(at + size);
        }
        at = at
            .checked_add(size)?
            .checked_add(usize::try_from(length).ok()?)?;
    }
}

/// The first byte is the limit, the second how many bytes are read at once.
pub fn frames(data: &[u8]) {
    let mut tape = Tape::new(data);
    let most = u64::from(tape.byte()) * 17;
    let at_once = 1 + usize::from(tape.byte());
    let bytes = tape.rest();
    let expected = too_long_at(bytes, most);
    // A byte at a time, the refusal comes with the very last one of the header.
    assert_eq!(
        refused_after(bytes, most, 1).map(|passed| passed + 1),
        expected
    );
    let passed = refused_after(bytes, most, at_once);
    assert_eq!(passed.is_some(), expected.is_some());
    if let (Some(passed), Some(expected)) = (passed, expected) {
        assert!(passed < expected && expected <= passed + at_once);
    }
}
