//! What is in stock, over gRPC: the methods of `proto/stock.proto`, as anybody would write them.

use std::pin::Pin;
use std::time::Duration;

use tokio_stream::{Stream, iter};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use self::proto::stock_server::{Stock, StockServer};
use self::proto::{Amount, Item};
use crate::server;

/// Generated from `proto/stock.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    tonic::include_proto!("shop");
}

/// How long counting takes.
const COUNTING: Duration = Duration::from_secs(2);
/// Name and number of every item.
const ITEMS: [(&str, u32); 3] = [("teapot", 1000), ("lamp", 40), ("kettle", 7)];

/// The service, with its name in answers.
struct Books {
    says: String,
}

/// Serves until SIGTERM or SIGINT; its answers say that `says` gave them.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve(says: String) -> anyhow::Result<()> {
    let listener = server::listen("stock").await?;
    let asked_to_end = server::asked_to_end()?;
    Server::builder()
        .add_service(StockServer::new(Books { says }))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), asked_to_end)
        .await?;
    Ok(())
}

// === impl Books ===

impl Books {
    fn find(&self, item: &Request<Item>) -> Result<Amount, Status> {
        let name = item.get_ref().name.as_str();
        let (_, in_stock) = ITEMS
            .into_iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| Status::not_found("no such item"))?;
        Ok(Amount {
            in_stock,
            says: self.says.clone(),
        })
    }
}

#[tonic::async_trait]
impl Stock for Books {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Amount, Status>> + Send>>;

    async fn look(&self, item: Request<Item>) -> Result<Response<Amount>, Status> {
        Ok(Response::new(self.find(&item)?))
    }

    async fn count(&self, item: Request<Item>) -> Result<Response<Amount>, Status> {
        tokio::time::sleep(COUNTING).await;
        Ok(Response::new(self.find(&item)?))
    }

    async fn watch(&self, item: Request<Item>) -> Result<Response<Self::WatchStream>, Status> {
        let first = self.find(&item)?;
        let sold = (0..3).map(move |sold| {
            let in_stock = first.in_stock.saturating_sub(sold);
            Ok(Amount {
                in_stock,
                ..first.clone()
            })
        });
        Ok(Response::new(Box::pin(iter(sold))))
    }

    async fn remove(&self, item: Request<Item>) -> Result<Response<Amount>, Status> {
        Ok(Response::new(self.find(&item)?))
    }
}
