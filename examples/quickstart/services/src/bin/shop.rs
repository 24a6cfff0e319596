//! The services of the shop that are written in Rust, and a small client to ask them with.

use std::env;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use quickstart::shop::orders::Version;
use quickstart::shop::{customers, echo, orders, web};
use quickstart::{client, server};

const USAGE: &str = "\
usage: shop web | orders | customers        runs a service (HOST, PORT; orders: ORDERS_VERSION=v1|v2)
       shop echo                            runs one that answers each request with itself
       shop call METHOD URL [NAME:VALUE]... asks, and shows status, headers and body";

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
        ["echo"] => server::serve("echo", echo::answer).await,
        ["orders"] => {
            let version = env::var("ORDERS_VERSION").unwrap_or_else(|_| "v1".to_owned());
            let version = Version::of(&version)
                .with_context(|| format!("ORDERS_VERSION is {version:?}: it is v1 or v2"))?;
            let name = format!("orders {}", version.name());
            server::serve(&name, move |request| orders::answer(version, request)).await
        }
        ["call", method, url, headers @ ..] => call(method, url, headers).await,
        _ => anyhow::bail!("{USAGE}"),
    }
}

/// Shows an answer as `curl -i` does.
async fn call(method: &str, url: &str, headers: &[&str]) -> anyhow::Result<()> {
    let method: Method = method
        .parse()
        .with_context(|| format!("{method} is no method"))?;
    let mut map = HeaderMap::new();
    for header in headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("{header} has no colon"))?;
        map.append(
            name.trim().parse::<HeaderName>()?,
            value.trim().parse::<HeaderValue>()?,
        );
    }
    let answer = client::call(method, url, map).await?;
    let mut text = format!("HTTP/1.1 {}\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(&answer.body);
    // Written at once, and without panicking when the reader has gone.
    Ok(std::io::stdout().write_all(&text)?)
}
