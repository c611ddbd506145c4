//! The workloads of `inflight`, run side by side with its peers: `cargo run --release -p inflight-benches`.
//!
//! A machine's speed may drift by a factor of three within minutes, so only what was measured moments apart
//! is compared: subject and peers take turns within each round, a ratio is taken within its round, and what is
//! reported is the median of the ratios. Nothing else should run meanwhile: on a machine that is busy, threads
//! that would get in each other's way take turns, and locks look cheaper than they are.

mod count;
mod measure;
mod report;
mod runner;
mod svg;
mod workloads;

use std::error::Error;
use std::process::ExitCode;
use std::{env, fs};

use measure::{Measured, Workload};

const USAGE: &str = "\
Usage: inflight-benches [--quick] [--only NAME]... [--rounds N] [--svg FILE] [--out FILE.json]

  --quick       smaller workloads and fewer rounds
  --only NAME   the workloads whose names begin with NAME; may be given again
  --rounds N    measured rounds of each workload (one more warms up)
  --svg FILE    draw the plot
  --out FILE    write the figures as JSON";

#[derive(Default)]
struct Options {
    quick: bool,
    only: Vec<String>,
    rounds: Option<usize>,
    svg: Option<String>,
    out: Option<String>,
    /// One sample of this contender of this workload: how a workload that needs a process of its own is run.
    child: Option<(String, String)>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self::default();
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or(format!("{flag} needs a value\n{USAGE}"));
            match flag.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only.push(value()?),
                "--rounds" => options.rounds = Some(value()?.parse()?),
                "--svg" => options.svg = Some(value()?),
                "--out" => options.out = Some(value()?),
                "--child" => options.child = Some((value()?, value()?)),
                _ => return Err(format!("{flag}?\n{USAGE}").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, workload: &Workload) -> bool {
        if self.only.is_empty() {
            !workload.by_name_only
        } else {
            self.only.iter().any(|name| workload.name.starts_with(name))
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(env::args().skip(1))?;
    let workloads = workloads::all(options.quick);
    if let Some((workload, contender)) = &options.child {
        return measure::run_as_child(workloads, workload, contender);
    }

    let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 9 }).max(1);
    let chosen: Vec<_> = workloads.into_iter().filter(|workload| options.wants(workload)).collect();
    if chosen.is_empty() {
        return Err(format!("no workload is called {}", options.only.join(" or ")).into());
    }
    let mut measured: Vec<Measured> = Vec::new();
    for workload in chosen {
        let result = workload.measure(rounds, options.quick)?;
        println!("{}", report::table(&result));
        measured.push(result);
    }
    println!("{}", report::summary(&measured));
    if let Some(file) = &options.svg {
        fs::write(file, svg::plot(&measured))?;
    }
    if let Some(file) = &options.out {
        fs::write(file, report::json(&measured))?;
    }
    Ok(())
}
