//! How a workload is measured: round by round, all contenders in turn, ratios within a round.

use std::error::Error;
use std::process::Command;
use std::time::Duration;
use std::{env, fs, io, thread};

use crate::runner::Runner;

/// A value for each of the workload's metrics; NaN where a contender has none.
pub(crate) type Sample = Vec<f64>;

/// What to do with a runner. A type instead of a closure, for it is to work with every runner.
pub(crate) trait Body: Copy + 'static {
    /// The runner lives as long as the process: so a task can hold on to it for the price of a reference.
    fn run<R: Runner>(self, runner: &'static R) -> Sample;
}

pub(crate) struct Contender {
    pub(crate) name: String,
    run: Box<dyn FnMut() -> Sample>,
}

impl Contender {
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut() -> Sample + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }

    /// A runner that is started in the first round, and used again in all others.
    pub(crate) fn on<R: Runner>(name: impl Into<String>, threads: usize, body: impl Body) -> Self {
        let mut runner: Option<&'static R> = None;
        Self::new(name, move || {
            let start = || -> &'static R { Box::leak(Box::new(R::start(threads))) };
            body.run(*runner.get_or_insert_with(start))
        })
    }
}

/// What the subject is to reach: at most `reach` times the best of `against`, or `reach` itself if there is none.
pub(crate) struct Limit {
    pub(crate) subject: &'static str,
    pub(crate) metric: usize,
    pub(crate) against: &'static [&'static str],
    pub(crate) reach: f64,
    pub(crate) beyond: f64,
}

#[derive(Default)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: String,
    /// Less is better in all of them.
    pub(crate) metrics: &'static [&'static str],
    pub(crate) contenders: Vec<Contender>,
    pub(crate) limits: Vec<Limit>,
    /// Its heading in the plot.
    pub(crate) plotted: Option<&'static str>,
    pub(crate) by_name_only: bool,
    /// Each sample is taken in a process of its own: memory that others have used before would blur it.
    pub(crate) isolated: bool,
}

/// A workload with its figures.
pub(crate) struct Measured {
    pub(crate) workload: Workload,
    /// By contender, then by metric.
    pub(crate) medians: Vec<Vec<f64>>,
    /// One for each limit of the workload.
    pub(crate) reached: Vec<f64>,
}

impl Workload {
    pub(crate) fn measure(mut self, rounds: usize, quick: bool) -> Result<Measured, Box<dyn Error>> {
        // Samples by contender, then by round.
        let mut samples: Vec<Vec<Sample>> = self.contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..=rounds {
            for turn in 0..self.contenders.len() {
                let index = (turn + round) % self.contenders.len();
                let contender = &mut self.contenders[index];
                settle();
                let sample = if self.isolated {
                    in_child(self.name, &contender.name, quick)?
                } else {
                    (contender.run)()
                };
                let warms_up = round == 0;
                if !warms_up {
                    samples[index].push(sample);
                }
            }
        }
        let medians = samples.iter().map(|rounds| {
            let median = |metric| median(rounds.iter().map(|sample| sample[metric]).collect());
            (0..self.metrics.len()).map(median).collect()
        });
        let reached = self.limits.iter().map(|limit| {
            let ratio = |round: usize| {
                let value = |name: &str| samples[self.index(name)][round][limit.metric];
                let best = limit.against.iter().copied().map(value).reduce(f64::min);
                value(limit.subject) / best.unwrap_or(1.0)
            };
            median((0..rounds).map(ratio).collect())
        });
        let (medians, reached) = (medians.collect(), reached.collect());
        Ok(Measured { medians, reached, workload: self })
    }

    fn index(&self, contender: &str) -> usize {
        self.contenders
            .iter()
            .position(|each| each.name == contender)
            .expect("limits name contenders of their workload")
    }
}

/// Waits until the threads of whoever had its turn before are gone: thousands that the kernel is still taking down
/// would be the next one's burden. (Where they cannot be counted there is nothing to wait for.)
fn settle() {
    const CALM: usize = 5;
    let mut counts = [0; CALM];
    for turn in 0..500 {
        counts[turn % CALM] = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if turn >= CALM && counts.iter().all(|&count| count == counts[0]) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The middle of the values, the upper of two.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index"
)]
pub(crate) fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * q) as usize;
    values[index.min(values.len() - 1)]
}

fn in_child(workload: &str, contender: &str, quick: bool) -> Result<Sample, Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--child", workload, contender]).args(quick.then_some("--quick"));
    let output = command.output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr)).into());
    }
    let values = String::from_utf8(output.stdout)?;
    Ok(values.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// The other side of `in_child`.
pub(crate) fn run_as_child(
    workloads: Vec<Workload>,
    workload: &str,
    contender: &str,
) -> Result<(), Box<dyn Error>> {
    let chosen = workloads.into_iter().find(|each| each.name == workload);
    let mut chosen = chosen.ok_or("no such workload")?;
    let index = chosen.index(contender);
    for value in (chosen.contenders[index].run)() {
        println!("{value}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        // The machine slows down threefold on the way; the ratio is 0.5 all along.
        let drifting = |factor: f64| {
            let mut speed = 1.0;
            move || {
                speed *= 1.5;
                vec![speed * factor]
            }
        };
        let workload = Workload {
            metrics: &["ns"],
            contenders: vec![Contender::new("a", drifting(1.0)), Contender::new("b", drifting(2.0))],
            limits: vec![Limit { subject: "a", metric: 0, against: &["b"], reach: 1.0, beyond: 1.0 }],
            ..Workload::default()
        };
        let measured = workload.measure(3, false).expect("nothing here can fail");
        assert!((measured.reached[0] - 0.5).abs() < 1e-9);
    }

    #[test]
    fn limits_name_contenders_and_metrics_of_their_workload() {
        for workload in crate::workloads::all(true) {
            for limit in &workload.limits {
                workload.index(limit.subject);
                limit.against.iter().for_each(|name| _ = workload.index(name));
                assert!(limit.metric < workload.metrics.len(), "{}", workload.name);
            }
        }
    }

    #[test]
    fn quantiles() {
        let values = || (0..100).rev().map(f64::from).collect();
        assert!((median(values()) - 50.0).abs() < 1e-9);
        assert!((quantile(values(), 0.99) - 99.0).abs() < 1e-9);
    }
}
