//! Measures the bare TCP floor and the core's loop beside it.
//!
//! ```text
//! cargo run --release -p dolmen-uring --features bench --example floor -- [DEPTH] [SECONDS] [SERVER_CPU,CLIENT_CPU] [MASK] [CONGESTION]
//! ```
//!
//! Runs alternate, and the figures that matter are the ratios within one call.

use dolmen_uring::{
    UringConfig,
    bench::{Run, echo, floor},
};
use std::{error::Error, time::Duration};

/// Pairs of runs; the median of the ratios is printed last.
const PAIRS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize, usual: &str| args.get(at).cloned().unwrap_or_else(|| usual.into());
    let cpus = arg(2, "0,1");
    let (server, client) = cpus.split_once(',').ok_or("CPUs are two numbers: SERVER,CLIENT")?;
    let run = Run {
        depth: arg(0, "32").parse()?,
        time: Duration::from_secs_f64(arg(1, "1").parse()?),
        cpus: Some((server.parse()?, client.parse()?)),
        congestion: args.get(4).cloned(),
    };
    let config = UringConfig { mask: arg(3, "none").parse()?, ..UringConfig::default() };
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let floor = floor::measure(&run)?;
        let echo = echo::measure(&run, &config)?;
        ratios.push(echo.per_second / floor.per_second);
        println!(
            "depth {:3}  floor {:9.0}/s {:6.1} us   loop {:9.0}/s {:6.1} us   ratio {:.3}",
            run.depth,
            floor.per_second,
            floor.mean_us,
            echo.per_second,
            echo.mean_us,
            echo.per_second / floor.per_second
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.3}", ratios[PAIRS / 2]);
    Ok(())
}
