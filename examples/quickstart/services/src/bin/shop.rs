//! The services of the shop that are written in Rust, and a small client to ask them with.

use std::env;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use quickstart::shop::fulfilment::{Catalogue, Step};
use quickstart::shop::inbox::Inbox;
use quickstart::shop::orders::Version;
use quickstart::shop::payments::Payments;
use quickstart::shop::{customers, echo, fulfilment, inbox, ledger, orders, payments, stock, web};
use quickstart::{client, grpc, server, talk};

const USAGE: &str = "\
usage: shop web | orders | customers        runs a service (HOST, PORT; orders: ORDERS_VERSION=v1|v2)
                                            (any of them: SHOP_FAILS=every-other|always)
       shop payments                        runs one that makes a payment of every POST
       shop echo                            runs one that answers each request with itself
       shop inbox                           runs one that keeps what is posted, and tells it at /inbox
       shop fulfil payment | stock          runs a step of an order's way: it is posted an event, and replies with one
       shop stock                           runs one that speaks gRPC (STOCK_SAYS: its name in answers)
       shop ledger                          runs one with a protocol of its own, in which it speaks first
       shop call METHOD URL [NAME:VALUE]... asks, and shows status, headers and body
       shop grpc URL ITEM [NAME:VALUE]...   calls a method of stock, and shows messages and status
       shop talk HOST:PORT [LINE]...        says each line once it was answered, and shows the answers";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["web"] => server::serve("web", web::answer).await,
        ["customers"] => server::serve("customers", customers::answer).await,
        ["ledger"] => ledger::serve().await,
        ["stock"] => {
            let says = env::var("STOCK_SAYS").unwrap_or_else(|_| "stock".to_owned());
            stock::serve(says).await
        }
        ["echo"] => server::serve("echo", echo::answer).await,
        ["payments"] => {
            let made = Payments::default();
            server::serve("payments", move |request| {
                payments::answer(made.clone(), request)
            })
            .await
        }
        ["inbox"] => {
            let inbox = Inbox::default();
            server::serve("inbox", move |request| {
                inbox::answer(inbox.clone(), request)
            })
            .await
        }
        ["fulfil", "payment"] => fulfil("payment", Step::Payment).await,
        ["fulfil", "stock"] => fulfil("stock", Step::Stock(Catalogue::default())).await,
        ["orders"] => {
            let version = env::var("ORDERS_VERSION").unwrap_or_else(|_| "v1".to_owned());
            let version = Version::of(&version)
                .with_context(|| format!("ORDERS_VERSION is {version:?}: it is v1 or v2"))?;
            let name = format!("orders {}", version.name());
            server::serve(&name, move |request| orders::answer(version, request)).await
        }
        ["call", method, url, lines @ ..] => call(method, url, headers(lines)?).await,
        ["grpc", url, item, metadata @ ..] => {
            let answer = grpc::call(url, item, headers(metadata)?).await?;
            shown(answer.to_string().as_bytes())
        }
        ["talk", to, lines @ ..] => shown(talk::talk(to, lines).await?.as_bytes()),
        _ => anyhow::bail!("{USAGE}"),
    }
}

/// Runs a step of an order's way.
async fn fulfil(name: &str, step: Step) -> anyhow::Result<()> {
    server::serve(name, move |request| {
        fulfilment::answer(step.clone(), request)
    })
    .await
}

/// Shows an answer as `curl -i` does.
async fn call(method: &str, url: &str, headers: HeaderMap) -> anyhow::Result<()> {
    let method: Method = method
        .parse()
        .with_context(|| format!("{method} is no method"))?;
    let answer = client::call(method, url, headers).await?;
    let mut text = format!("HTTP/1.1 {}\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(&answer.body);
    shown(&text)
}

/// Headers as they are written on the command line.
fn headers(lines: &[&str]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("{line} has no colon"))?;
        headers.append(
            name.trim().parse::<HeaderName>()?,
            value.trim().parse::<HeaderValue>()?,
        );
    }
    Ok(headers)
}

/// Written at once, and without panicking when the reader has gone.
fn shown(text: &[u8]) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text)?)
}
