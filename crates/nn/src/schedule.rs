//! Learning rate schedules: constant, by the validation loss, or by the step.
//!
//! All schedules have PyTorch's names and values. The sequences in `tests/fixtures/optim.json`
//! were computed by PyTorch.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A schedule's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By the validation loss, after each epoch.
    Plateau,
    /// Always the same.
    Constant,
    /// From the learning rate to 0 along half a cosine, step by step.
    Cosine,
    /// Up to the learning rate and down again, step by step.
    OneCycle,
}

/// `ReduceLROnPlateau`, mode `min`: its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Plateau {
    /// The factor of a reduction of the learning rate.
    pub factor: f64,
    /// Number of epochs in a row without a fall of the loss that are accepted; the next one reduces the learning rate.
    pub patience: usize,
    /// The share by which the loss must fall below the best one to count as a fall.
    pub threshold: f64,
    /// Number of epochs after a reduction that never count as epochs without a fall.
    pub cooldown: usize,
    /// The minimum of the learning rate.
    pub min_lr: f64,
}

impl Default for Plateau {
    fn default() -> Plateau {
        Plateau { factor: 0.1, patience: 1, threshold: 1e-4, cooldown: 0, min_lr: 0.0 }
    }
}

impl Plateau {
    /// Checks that the values are valid.
    ///
    /// # Errors
    /// [`Error::Setting`]
    pub fn validate(&self) -> Result<()> {
        if !(self.factor > 0.0 && self.factor < 1.0) {
            let (found, expected) = (self.factor, "a number above 0 and below 1");
            return Err(Error::Setting { name: "factor", found, expected });
        }
        for (name, found) in [("threshold", self.threshold), ("min_lr", self.min_lr)] {
            if !(found >= 0.0 && found.is_finite()) {
                return Err(Error::Setting { name, found, expected: "a finite number, at least 0" });
            }
        }
        Ok(())
    }
}

/// The smallest reduction of the learning rate that is applied; PyTorch's default.
const LEAST_FALL: f64 = 1e-8;
/// The share of the steps of a one-cycle schedule in which the learning rate rises; PyTorch's default.
const RISE: f64 = 0.3;
/// The learning rate divided by the initial learning rate of a one-cycle schedule; PyTorch's default.
const BEGIN_DIVISOR: f64 = 25.0;
/// The initial learning rate divided by the final learning rate of a one-cycle schedule; PyTorch's default.
const END_DIVISOR: f64 = 1e4;

/// The learning rate of every step of a run.
pub struct Schedule {
    kind: Kind,
    rate: f64,
    steps: u64,
    plateau: Plateau,
    state: ScheduleState,
}

/// The state of a schedule. Only the plateau schedule depends on the past.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleState {
    /// The current learning rate.
    pub rate: f64,
    /// The lowest loss so far.
    pub best: f64,
    /// The number of epochs since the lowest loss.
    pub bad_epochs: usize,
    /// The number of cooldown epochs left.
    pub cooldown: usize,
}

impl Schedule {
    /// A schedule with the learning rate `rate` for a run of `steps` steps.
    pub fn new(kind: Kind, rate: f64, steps: u64, plateau: Plateau) -> Schedule {
        let state = ScheduleState { rate, best: f64::INFINITY, bad_epochs: 0, cooldown: 0 };
        Schedule { kind, rate, steps, plateau, state }
    }

    /// The current state.
    pub fn state(&self) -> &ScheduleState {
        &self.state
    }

    /// Restores the state of an interrupted run.
    pub fn resume(&mut self, state: ScheduleState) {
        self.state = state;
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        let step = step as f64;
        match self.kind {
            Kind::Plateau => self.state.rate,
            Kind::Constant => self.rate,
            Kind::Cosine => half_cosine(self.rate, 0.0, step / self.steps as f64),
            Kind::OneCycle => {
                let (begin, last) = (self.rate / BEGIN_DIVISOR, self.steps as f64 - 1.0);
                let top = RISE * self.steps as f64 - 1.0;
                match step <= top {
                    true => half_cosine(begin, self.rate, if top > 0.0 { step / top } else { 1.0 }),
                    false => half_cosine(self.rate, begin / END_DIVISOR, (step - top) / (last - top)),
                }
            }
        }
    }

    /// Records the validation loss of an epoch.
    pub fn epoch(&mut self, loss: f64) {
        let (state, plateau) = (&mut self.state, &self.plateau);
        if self.kind != Kind::Plateau {
            return;
        }
        if loss < state.best * (1.0 - plateau.threshold) {
            (state.best, state.bad_epochs) = (loss, 0);
        } else {
            state.bad_epochs += 1;
        }
        if state.cooldown > 0 {
            (state.cooldown, state.bad_epochs) = (state.cooldown - 1, 0);
        }
        if state.bad_epochs > plateau.patience {
            let next = (state.rate * plateau.factor).max(plateau.min_lr);
            if state.rate - next > LEAST_FALL {
                state.rate = next;
            }
            (state.cooldown, state.bad_epochs) = (plateau.cooldown, 0);
        }
    }
}

/// Half a cosine from `from` at share 0 to `to` at share 1.
fn half_cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * share).cos())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The cases of one kind among the sequences computed by PyTorch.
    fn cases(kind: &str) -> Vec<Value> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim.json");
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        all[kind].as_array().unwrap().clone()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    }

    /// Allows for rounding alone: PyTorch computes each cosine from the step before, which adds
    /// up over a hundred steps.
    fn assert_near(found: f64, expected: f64, largest: f64, what: &str) {
        assert!((found - expected).abs() <= 1e-13 * largest, "{what}: {found} {expected}");
    }

    #[test]
    fn plateaus_are_those_of_pytorch() {
        let cases = cases("plateau");
        assert!(cases.len() > 10);
        for case in cases {
            let number = |key: &str| case[key].as_f64().unwrap();
            let plateau = Plateau {
                factor: number("factor"),
                patience: number("patience") as usize,
                threshold: number("threshold"),
                cooldown: number("cooldown") as usize,
                min_lr: number("min_lr"),
            };
            let mut schedule = Schedule::new(Kind::Plateau, number("rate"), 0, plateau);
            for (i, (loss, rate)) in numbers(&case["losses"]).into_iter().zip(numbers(&case["rates"])).enumerate() {
                schedule.epoch(loss);
                assert_near(schedule.rate(0), rate, rate, &format!("{} {i}", case["name"]));
            }
        }
    }

    #[test]
    fn cosines_and_single_cycles_are_those_of_pytorch() {
        for (kind, name, rate, steps) in
            [(Kind::Cosine, "cosine", "rate", "steps"), (Kind::OneCycle, "one_cycle", "max_rate", "total_steps")]
        {
            for case in cases(name) {
                let (rate, steps) = (case[rate].as_f64().unwrap(), case[steps].as_u64().unwrap());
                let mut schedule = Schedule::new(kind, rate, steps, Plateau::default());
                schedule.epoch(1.0);
                for (step, expected) in numbers(&case["rates"]).into_iter().enumerate() {
                    assert_near(schedule.rate(step as u64), expected, rate, &format!("{name} {step} of {steps}"));
                }
            }
        }
    }

    #[test]
    fn a_constant_stays_and_a_resumed_plateau_goes_on() {
        let mut constant = Schedule::new(Kind::Constant, 0.5, 3, Plateau::default());
        constant.epoch(f64::MAX);
        assert_eq!((constant.rate(0), constant.rate(2)), (0.5, 0.5));
        let new = || Schedule::new(Kind::Plateau, 1.0, 9, Plateau { cooldown: 1, ..Plateau::default() });
        let (mut whole, mut first) = (new(), new());
        for (i, loss) in [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0].into_iter().enumerate() {
            whole.epoch(loss);
            first.epoch(loss);
            let mut resumed = new();
            resumed.resume(first.state().clone());
            first = resumed;
            assert_eq!(whole.state(), first.state(), "{i}");
        }
        assert!(whole.rate(0) < 0.02);
    }

    #[test]
    fn parameters_that_cannot_work_are_refused_with_their_key() {
        let refusal = |plateau: Plateau| plateau.validate().unwrap_err().to_string();
        Plateau::default().validate().unwrap();
        assert_eq!(
            refusal(Plateau { factor: 1.0, ..Plateau::default() }),
            "`factor`: found 1; expected a number above 0 and below 1"
        );
        assert_eq!(
            refusal(Plateau { min_lr: -1.0, ..Plateau::default() }),
            "`min_lr`: found -1; expected a finite number, at least 0"
        );
        assert_eq!(
            refusal(Plateau { threshold: f64::NAN, ..Plateau::default() }),
            "`threshold`: found NaN; expected a finite number, at least 0"
        );
    }

    fn any_plateau() -> impl Strategy<Value = Plateau> {
        (0.01..0.99, 0..4_usize, 0.0..0.1, 0..3_usize, 0.0..0.01).prop_map(
            |(factor, patience, threshold, cooldown, min_lr)| Plateau { factor, patience, threshold, cooldown, min_lr },
        )
    }

    fn any_loss() -> impl Strategy<Value = f64> {
        prop_oneof![8 => 0.0..10.0, 1 => Just(f64::INFINITY), 1 => Just(f64::NAN)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rates_by_the_step_lie_between_0_and_the_learning_rate(rate in 1e-6..1.0, steps in 1..1500_u64) {
            for kind in [Kind::Constant, Kind::Cosine, Kind::OneCycle] {
                let schedule = Schedule::new(kind, rate, steps, Plateau::default());
                for step in 0..steps {
                    let now = schedule.rate(step);
                    prop_assert!((0.0..=rate * (1.0 + 1e-12)).contains(&now), "{:?}: {} at {}", kind, now, step);
                }
            }
        }

        #[test]
        fn one_cycle_rises_and_then_falls(rate in 1e-6..1.0, steps in 1..1500_u64) {
            let schedule = Schedule::new(Kind::OneCycle, rate, steps, Plateau::default());
            let rates: Vec<f64> = (0..steps).map(|step| schedule.rate(step)).collect();
            let top = (0..rates.len()).max_by(|&a, &b| rates[a].total_cmp(&rates[b])).unwrap();
            let (rise, fall) = (&rates[..=top], &rates[top..]);
            prop_assert!(rise.windows(2).all(|pair| pair[0] < pair[1]) && fall.windows(2).all(|pair| pair[0] > pair[1]));
            prop_assert!(top as f64 <= RISE * steps as f64);
        }

        #[test]
        fn a_plateau_never_rises_and_goes_on_from_any_epoch(
            plateau in any_plateau(),
            rate in 1e-6..1.0,
            losses in prop::collection::vec(any_loss(), 1..60),
            stop in any::<prop::sample::Index>(),
        ) {
            let new = || Schedule::new(Kind::Plateau, rate, 0, plateau.clone());
            let mut whole = new();
            let mut states = vec![whole.state().clone()];
            for &loss in &losses {
                let before = whole.rate(0);
                whole.epoch(loss);
                prop_assert!((0.0..=before).contains(&whole.rate(0)));
                states.push(whole.state().clone());
            }
            let stop = stop.index(losses.len());
            let mut resumed = new();
            resumed.resume(states[stop].clone());
            losses[stop..].iter().for_each(|&loss| resumed.epoch(loss));
            prop_assert_eq!(resumed.state(), whole.state());
        }
    }
}
