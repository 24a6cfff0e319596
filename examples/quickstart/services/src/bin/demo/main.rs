//! `make demo`: starts the shop with its mesh on this machine, sends real requests through it, and
//! tells what the resources did. Every figure is read from the running system, every step checks
//! what it expects, and the first expectation that is not met ends the demo with exit code 1.

#![allow(
    clippy::print_stdout,
    reason = "telling a story on standard output is all it does"
)]

mod figures;
mod folder;
mod load;
mod mesh;
mod processes;
mod shop;
mod story;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use folder::Folder;
use mesh::Mesh;
use shop::Shop;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let folder = Folder::prepare()?;
    let mesh = Mesh::start(&folder, &[])?;
    let mut shop = Shop { folder, mesh };
    let told = tokio::select! {
        told = story::tell(&mut shop) => told,
        interrupted = interrupted() => interrupted.and(Err(anyhow::anyhow!("interrupted"))),
    };
    let url = match told {
        Ok(url) => url,
        Err(error) => {
            // In any case nothing is left running; what went wrong first is what matters.
            let _ = shop.mesh.stop().await;
            return Err(error);
        }
    };
    if std::io::stdout().is_terminal() {
        story::invite(&shop, &url);
        tokio::select! {
            () = shop.mesh.repeat_what_it_says() => {}
            interrupted = interrupted() => interrupted?,
        }
    }
    story::end(shop).await
}

/// Waits for Ctrl-C, SIGTERM, or the terminal's end.
async fn interrupted() -> anyhow::Result<()> {
    let (mut terminate, mut hang_up) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

/// Some of the story; lines that are too long to read are wrapped.
fn say(text: &str) {
    const WIDTH: usize = 100;
    for line in text.lines() {
        let mut width = 0;
        let mut wrapped = String::new();
        // Several spaces in a row are there for a reason.
        for word in line.split_inclusive(' ') {
            let length = word.trim_end().chars().count();
            if width > 0 && width + length > WIDTH {
                wrapped.truncate(wrapped.trim_end().len());
                wrapped.push('\n');
                width = 0;
            }
            wrapped.push_str(word);
            width += word.chars().count();
        }
        print(&wrapped);
    }
}

/// The heading of a chapter.
fn chapter(title: &str) {
    print(&format!("\n\u{2500}\u{2500} {title}"));
}

/// Something that was said by a program, word for word.
fn quote(lines: &[String]) {
    for line in lines {
        print(&format!("   | {line}"));
    }
}

/// Prints a line. When nobody listens any more, the mesh is to end in good order all the same.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
