//! Requests: the stages that a command names, and the stages that it therefore brings up to date.

use std::collections::BTreeSet;

use super::Stage;
use crate::config::Config;

/// The stages to bring up to date, and the way to do it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The named stages. If the list is empty, all stages without a folder for each run are meant, so that no network
    /// is trained unless it is asked for.
    pub stages: Vec<Stage>,
    /// Run the named stages even if they are fresh.
    pub force: bool,
    /// Run only the named stages; their inputs must be fresh.
    pub single: bool,
    /// Also run every stage below the named stages.
    pub downstream: bool,
    /// Report which stages would run, and run none.
    pub dry_run: bool,
    /// Evaluate and report on the existing run and data set, whatever the configuration says about how they are made.
    pub as_they_stand: bool,
}

impl Request {
    /// Whether the request asks for a stage.
    fn names(&self, stage: Stage) -> bool {
        match self.stages.is_empty() {
            true => !stage.definition().is_per_run(),
            false => self.stages.contains(&stage),
        }
    }

    /// Whether a stage is to run even if it is fresh. The stages that it needs are not forced: a training may take an
    /// hour, so it has to be named.
    pub(super) fn forces(&self, stage: Stage) -> bool {
        self.force && self.names(stage)
    }

    /// The stages to bring up to date, in order.
    pub(super) fn selection(&self, config: &Config) -> Vec<Stage> {
        let named: Vec<Stage> = Stage::ALL.into_iter().filter(|&stage| self.names(stage)).collect();
        let mut selected: BTreeSet<Stage> = named.iter().copied().collect();
        if self.downstream {
            let below = Stage::ALL.into_iter().filter(|stage| named.iter().any(|&named| stage.is_below(named, config)));
            selected.extend(below);
        }
        if !self.single {
            let with_upstream = |stage: Stage| match self.as_they_stand && stage.reads_runs(config) {
                true => vec![stage],
                false => stage.with_upstream(config),
            };
            selected = selected.into_iter().flat_map(with_upstream).collect();
        }
        selected.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use Stage::*;

    use super::*;

    fn selected(stages: &[Stage], change: fn(&mut Request)) -> Vec<Stage> {
        let mut request = Request { stages: stages.to_vec(), ..Request::default() };
        change(&mut request);
        request.selection(&Config::default())
    }

    #[test]
    fn a_stage_brings_what_it_needs_and_no_more() {
        assert_eq!(selected(&[Dataset], |_| ()), [Raw, Plan, Dataset]);
        assert_eq!(selected(&[Report], |_| ()), [Raw, Plan, Dataset, Report]);
    }

    #[test]
    fn no_network_is_trained_unasked() {
        let others = Stage::ALL.into_iter().filter(|stage| ![Train, Evaluate].contains(stage));
        assert_eq!(selected(&[], |_| ()), others.collect::<Vec<_>>());
        let request = |stages: &[Stage]| Request { stages: stages.to_vec(), force: true, ..Request::default() };
        assert!(request(&[Train]).forces(Train) && request(&[]).forces(Plan));
        assert!(!request(&[Evaluate]).forces(Train) && !request(&[]).forces(Train));
    }

    #[test]
    fn single_is_the_stage_alone_and_downstream_all_below() {
        assert_eq!(selected(&[Dataset], |r| r.single = true), [Dataset]);
        let around = [Raw, Plan, Dataset, Augment, Train, Evaluate, Report];
        assert_eq!(selected(&[Evaluate], |r| r.downstream = true), around);
        let both = |request: &mut Request| (request.single, request.downstream) = (true, true);
        assert_eq!(selected(&[Train], both), [Train, Evaluate, Report]);
    }

    #[test]
    fn a_run_that_is_named_is_evaluated_as_it_stands() {
        assert_eq!(selected(&[Evaluate, Report], |r| r.as_they_stand = true), [Evaluate, Report]);
        assert_eq!(selected(&[Dataset], |r| r.as_they_stand = true), [Raw, Plan, Dataset]);
    }
}
