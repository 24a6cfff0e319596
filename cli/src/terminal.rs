//! Running a command in the terminal that this process was started in, as a shell would.
//!
//! A command inside another process namespace can't see the group that is in the terminal's
//! foreground here, and an interactive shell would refuse to work without: so the command gets a
//! group of its own, and the terminal.

use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::{SigSet, Signal, killpg, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// What a shell adds to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// Runs the command until it ends; returns its exit code, as a shell tells it.
pub fn run(command: &mut Command) -> io::Result<i32> {
    // What is typed at the terminal is for the command, and so is the terminal: whoever gives it
    // away from the background would be stopped. The standard library gives the command an empty
    // mask.
    let ours: SigSet = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTTOU]
        .into_iter()
        .collect();
    ours.thread_block()?;
    let own = getpgrp();
    let in_foreground =
        io::stdin().is_terminal() && tcgetpgrp(io::stdin()).is_ok_and(|group| group == own);
    if in_foreground {
        command.process_group(0);
    }
    let child = Pid::from_raw(i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?);
    let give = |group: Pid| {
        if in_foreground {
            tcsetpgrp(io::stdin(), group)
        } else {
            Ok(())
        }
    };
    give(child)?;
    // It may have asked for the terminal before it was given.
    let _ = in_foreground.then(|| killpg(child, Signal::SIGCONT));
    loop {
        match waitpid(child, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => {
                give(own)?;
                return Ok(code);
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                give(own)?;
                return Ok(BY_SIGNAL + signal as i32);
            }
            Ok(WaitStatus::Stopped(..)) if in_foreground => {
                // Ctrl-Z: this process stops as well, and goes on with the command.
                give(own)?;
                raise(Signal::SIGSTOP)?;
                give(child)?;
                killpg(child, Signal::SIGCONT)?;
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
