//! `scrub`: the online data check.

use super::Answer;
use crate::base::ByteSize;
use crate::control::ScrubCommand;
use crate::volume::Volumes;

/// Does it.
pub fn run(volumes: &Volumes, command: ScrubCommand) -> Answer {
    let scrub = volumes.scrub();
    match command {
        ScrubCommand::Start(rate) => {
            scrub.start(rate.map(|rate| rate.0))?;
            let rate = words(scrub.status().rate);
            Ok(format!(
                "a scrub has begun, {rate}; .status shows how far it is\n"
            ))
        }
        ScrubCommand::Pause => {
            scrub.pause()?;
            Ok("the scrub is paused; 'scrub resume' lets it go on\n".to_owned())
        }
        ScrubCommand::Resume => {
            scrub.resume()?;
            Ok("the scrub goes on\n".to_owned())
        }
        ScrubCommand::Stop => {
            scrub.stop()?;
            Ok(format!("the scrub has ended: {}\n", scrub.status()))
        }
        ScrubCommand::Rate(rate) => {
            scrub.set_rate(rate.0)?;
            Ok(format!("the scrub goes on, {}\n", words(rate.0)))
        }
    }
}

fn words(rate: u64) -> String {
    match rate {
        0 => "as fast as it can".to_owned(),
        rate => format!("with {}/s at the most", ByteSize(rate)),
    }
}
