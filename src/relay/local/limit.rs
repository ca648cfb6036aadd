//! A stream that fails when a WebSocket message on it grows too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Follows the frames that are read from a stream, and ends it with an error at the header of a frame
/// that would make its message longer than allowed, before any of that is buffered.
#[derive(Debug)]
pub struct Limited<S> {
    stream: S,
    frames: Frames,
}

impl<S> Limited<S> {
    /// `stream`, whose messages may have `most` bytes.
    pub const fn new(stream: S, most: u64) -> Self {
        Self {
            stream,
            frames: Frames::new(most),
        }
    }
}

/// Where in the frames a stream is.
#[derive(Debug)]
struct Frames {
    most: u64,
    header: [u8; 14],
    have: usize,
    payload_left: u64,
    message: u64,
}

impl Frames {
    const fn new(most: u64) -> Self {
        Self {
            most,
            header: [0; 14],
            have: 0,
            payload_left: 0,
            message: 0,
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let here = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= here;
                bytes = usize::try_from(here)
                    .ok()
                    .and_then(|here| bytes.get(here..))
                    .unwrap_or_default();
                continue;
            }
            if let Some(place) = self.header.get_mut(self.have) {
                *place = byte;
            }
            self.have += 1;
            bytes = rest;
            self.end_of_header()?;
        }
        Ok(())
    }

    /// RFC 6455, section 5.2: two bytes, a longer length if the short one says so, a mask.
    fn end_of_header(&mut self) -> io::Result<()> {
        let [first, second, ..] = self.header;
        let (length_bytes, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 || self.have < 2 + length_bytes + mask_bytes {
            return Ok(());
        }
        let long = self.header.iter().skip(2).take(length_bytes);
        let length = long.fold(short, |sum, &byte| sum << 8 | u64::from(byte));
        let opcode = first & 0x0f;
        self.message = match opcode {
            0 => self.message.saturating_add(length),
            // Control frames come between the parts of a message.
            8.. => self.message,
            _ => length,
        };
        if self.message.max(length) > self.most {
            let why = format!("a message of more than {} bytes", self.most);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.payload_left = length;
        self.have = 0;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        Poll::Ready(self.frames.pass(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A masked client frame of `length` zero bytes, as far as its header.
    fn header(opcode: u8, fin: bool, length: u64) -> Vec<u8> {
        let mut bytes = vec![opcode | if fin { 0x80 } else { 0 }];
        match length {
            0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes
    }

    fn frame(opcode: u8, fin: bool, length: u16) -> Vec<u8> {
        let mut bytes = header(opcode, fin, u64::from(length));
        bytes.resize(bytes.len() + usize::from(length), 0);
        bytes
    }

    #[test]
    fn messages_within_the_limit_pass_however_they_are_cut() {
        let bytes = [
            frame(1, true, 0),
            frame(1, true, 125),
            frame(1, true, 1000),
            frame(1, false, 400),
            frame(9, true, 100),
            frame(0, false, 400),
            frame(0, true, 200),
            frame(2, true, 1000),
        ]
        .concat();
        for cut in 1..20 {
            let mut frames = Frames::new(1000);
            for chunk in bytes.chunks(cut) {
                frames.pass(chunk).unwrap();
            }
            assert_eq!((frames.have, frames.payload_left), (0, 0));
        }
    }

    #[test]
    fn a_frame_past_the_limit_fails_at_its_header() {
        for length in [1001, 70_000, u64::MAX] {
            assert!(Frames::new(1000).pass(&header(1, true, length)).is_err());
        }
    }

    #[test]
    fn parts_that_add_up_past_the_limit_fail() {
        let mut frames = Frames::new(1000);
        frames.pass(&frame(1, false, 600)).unwrap();
        assert!(frames.pass(&header(0, true, 401)).is_err());
    }
}
