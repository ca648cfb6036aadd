//! Sockets without the Nagle stall.
