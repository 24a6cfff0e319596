//! See the library.

use std::io::Write as _;

use clap::Parser as _;
use cli::args::Cli;

fn main() {
    let cli = Cli::parse();
    let code = match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "meshwright: {error:#}");
            cli.command.failure()
        }
    };
    std::process::exit(code)
}
