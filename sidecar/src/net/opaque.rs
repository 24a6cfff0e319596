//! Bytes that nobody reads: copied both ways until both sides are done.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};

/// Copies until both directions have ended; an end in one direction is passed on (half-close)
/// while the other goes on. Returns the bytes that went from `a` to `b` and from `b` to `a`.
///
/// # Errors
/// The first error of either side; both are closed then.
pub async fn copy<A, B>(a: &mut A, b: &mut B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional(a, b).await
}
