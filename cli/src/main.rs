//! See the library.

use clap::Parser as _;
use cli::args::Cli;

fn main() {
    let cli = Cli::parse();
    let code = match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("meshwright: {error:#}");
            cli.command.failure()
        }
    };
    std::process::exit(code)
}
