//! The network before a broker, which can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::schedule::Cut;

/// How much is read at once.
const CHUNK: usize = 16 * 1024;

/// Carries connections to a broker; ends with them when dropped.
pub(crate) struct Network {
    cut: watch::Sender<State>,
    accepting: JoinHandle<()>,
    accepted: Arc<AtomicUsize>,
}

/// What passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    cut: Option<Cut>,
    /// How often connections were broken: each is there for one number.
    broken: usize,
}

/// Which way something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToBroker,
    FromBroker,
}

// === impl Network ===

impl Network {
    /// From whoever connects there to the broker here.
    pub(crate) fn open(listener: TcpListener, broker: SocketAddr) -> Self {
        let (cut, state) = watch::channel(State::default());
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        let number = count.fetch_add(1, Ordering::Relaxed);
                        connections.spawn(carry(stream, broker, number, state.clone()));
                    }
                }
            }
        });
        Self {
            cut,
            accepting,
            accepted,
        }
    }

    pub(crate) fn cut(&self, cut: Cut) {
        self.cut.send_modify(|state| state.cut = Some(cut));
    }

    /// Lets all pass again. What was cut in a way that loses something does not go on: whoever spoke connects anew.
    pub(crate) fn mend(&self) {
        self.cut.send_modify(|state| {
            if matches!(state.cut, Some(Cut::Answers | Cut::Requests)) {
                state.broken += 1;
            }
            state.cut = None;
        });
    }

    /// How many connections there were.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl State ===

impl State {
    /// Whether nothing is left of a connection, by its number and how often some were broken when it came.
    fn breaks(self, number: usize, broken: usize) -> bool {
        match self.cut {
            Some(Cut::Broken) => true,
            Some(Cut::Some) if number.is_multiple_of(2) => true,
            _ => self.broken != broken,
        }
    }

    fn passes(self, way: Way) -> bool {
        match self.cut {
            Some(Cut::Held) => false,
            Some(Cut::Answers) => way != Way::FromBroker,
            Some(Cut::Requests) => way != Way::ToBroker,
            Some(Cut::Broken | Cut::Some) | None => true,
        }
    }
}

async fn carry(
    stream: TcpStream,
    broker: SocketAddr,
    number: usize,
    mut state: watch::Receiver<State>,
) {
    let broken = state.borrow().broken;
    let (to, from) = (state.clone(), state.clone());
    let carried = async {
        let Ok(there) = TcpStream::connect(broker).await else {
            return;
        };
        let ((here_read, here_write), (there_read, there_write)) =
            (stream.into_split(), there.into_split());
        // When one way ends, both do: no broker goes on with half a connection.
        tokio::select! {
            () = pass(here_read, there_write, Way::ToBroker, to) => {}
            () = pass(there_read, here_write, Way::FromBroker, from) => {}
        }
    };
    tokio::select! {
        biased;
        _ = state.wait_for(|state| state.breaks(number, broken)) => {}
        () = carried => {}
    }
}

/// Passes bytes on while they pass. Nor does an end arrive before that.
async fn pass(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    way: Way,
    mut state: watch::Receiver<State>,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = read.read(&mut chunk).await.unwrap_or(0);
        if state.wait_for(|state| state.passes(way)).await.is_err() || read == 0 {
            return;
        }
        if write.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use anyhow::Result;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    /// Nothing comes for so long.
    const SILENCE: Duration = Duration::from_millis(200);

    /// A network before one that says what it hears.
    async fn echo() -> Result<(Network, SocketAddr)> {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (to, here) = (echo.local_addr()?, listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        Ok((Network::open(listener, to), here))
    }

    async fn says(stream: &mut TcpStream) -> Result<usize> {
        stream.write_all(b"x").await?;
        let mut heard = [0; 1];
        Ok(timeout(SOON, stream.read(&mut heard)).await??)
    }

    #[tokio::test]
    async fn what_is_held_goes_on_and_what_is_broken_does_not() -> Result<()> {
        let (network, here) = echo().await?;
        let mut stream = TcpStream::connect(here).await?;
        assert_eq!(says(&mut stream).await?, 1);
        network.cut(Cut::Held);
        assert!(timeout(SILENCE, says(&mut stream)).await.is_err());
        network.mend();
        assert_eq!(timeout(SOON, stream.read(&mut [0; 1])).await??, 1);
        for cut in [Cut::Answers, Cut::Requests] {
            network.cut(cut);
            assert!(timeout(SILENCE, says(&mut stream)).await.is_err());
            network.mend();
            let end = timeout(SOON, stream.read(&mut [0; 1])).await?;
            assert!(!matches!(end, Ok(1)), "{cut:?}");
            stream = TcpStream::connect(here).await?;
            assert_eq!(says(&mut stream).await?, 1);
        }
        network.cut(Cut::Broken);
        assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(1)));
        let mut stream = TcpStream::connect(here).await?;
        assert!(!matches!(says(&mut stream).await, Ok(1)));
        Ok(())
    }
}
