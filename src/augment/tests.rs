//! Tests the options of the stage against each other, the keys of its draws, and its refusals.
//! `tests/integration/torchvision.rs` compares its pixels with those of torchvision.

use proptest::prelude::*;

use super::apply::{Resampling, Transform};
use super::draw::{AffineParams, EraseParams, Params};
use super::*;

const PLAIN: Resampling = Resampling { interpolation: Interpolation::Nearest, compose: Compose::Sequential };

fn applied(params: &Params, resampling: Resampling, pixels: &[u8], size: (usize, usize)) -> Vec<u8> {
    let mut out = vec![170; pixels.len()];
    Transform::new(params, resampling, size).apply(pixels, size, &mut out, &mut Scratch::default());
    out
}

const ALL: [Resampling; 4] = {
    use Compose::{Fused, Sequential};
    use Interpolation::{Bilinear, Nearest};
    [
        PLAIN,
        Resampling { interpolation: Nearest, compose: Fused },
        Resampling { interpolation: Bilinear, compose: Sequential },
        Resampling { interpolation: Bilinear, compose: Fused },
    ]
};

/// The parameters of a sample whose whole image is augmented.
fn drawn(augmenter: &Augmenter, sample: (i64, i64), size: (usize, usize)) -> Params {
    let [params] = augmenter.params(sample, size)[..] else { panic!("one draw for an image") };
    params
}

/// Random greys.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    use rand::Rng;
    let mut pixels = vec![0; count];
    crate::rng::stream(seed, "noise", 0, 0).fill_bytes(&mut pixels);
    pixels
}

const IDENTITY: AffineParams = AffineParams { translate: [0, 0], scale: 1.0, shear: [0.0, 0.0] };

#[test]
fn parameters_that_change_nothing_give_the_image_itself() {
    let image = noise(1, 20 * 31);
    let erase = EraseParams { top: 3, left: 4, height: 0, width: 9, value: 33 };
    let nothing = [
        Params::default(),
        Params { angle: Some(0.0), ..Params::default() },
        Params { affine: Some(IDENTITY), ..Params::default() },
        Params { angle: Some(360.0), affine: Some(IDENTITY), erase: Some(erase) },
    ];
    for (params, resampling) in nothing.iter().flat_map(|params| ALL.map(|resampling| (params, resampling))) {
        assert!(applied(params, resampling, &image, (20, 31)) == image, "{params:?}, {resampling:?}");
    }
}

#[test]
fn with_one_operator_fused_and_sequential_are_the_same() {
    let image = noise(2, 40 * 40);
    let config = Config::default();
    let both = Augmenter::new(&config, 0, 2);
    for sample in 0..200 {
        let Params { angle, affine, .. } = drawn(&both, (7, sample), (40, 40));
        for one in [Params { angle, ..Params::default() }, Params { affine, ..Params::default() }] {
            let [nearest, nearest_fused, bilinear, bilinear_fused] = ALL.map(|r| applied(&one, r, &image, (40, 40)));
            assert!(nearest == nearest_fused && bilinear == bilinear_fused, "{one:?}");
            assert!(nearest != bilinear, "{one:?}");
        }
    }
}

/// These maps hit the middles of pixels, so that the second resampling adds no error, and the first cuts nothing off.
#[test]
fn right_angles_and_whole_shifts_fuse_without_a_difference() {
    let turns = [(90.0, (30, 30)), (180.0, (30, 30)), (270.0, (30, 30)), (180.0, (22, 34)), (0.0, (22, 34))];
    for (angle, (height, width)) in turns {
        let image = noise(3, height * width);
        for translate in [[3, -2], [-4, 0], [1, 5]] {
            let affine = Some(AffineParams { translate, ..IDENTITY });
            let params = Params { angle: Some(angle), affine, erase: None };
            let [nearest, others @ ..] = ALL.map(|resampling| applied(&params, resampling, &image, (height, width)));
            assert!(others.iter().all(|other| *other == nearest), "{params:?}");
            assert!(nearest != image);
        }
    }
}

#[test]
fn fused_is_another_picture_of_the_same_scene() {
    // bilinear weights resample a plane without loss, except for rounding down once or twice
    let plane: Vec<u8> = (0..64 * 64).map(|n| (n % 64 + 2 * (n / 64)) as u8).collect();
    let augmenter = Augmenter::new(&Config { erasing: None, ..Config::default() }, 0, 2);
    let mut differing = 0;
    for sample in 0..50 {
        let params = drawn(&augmenter, (1, sample), (64, 64));
        let [_, _, sequential, fused] = ALL.map(|resampling| applied(&params, resampling, &plane, (64, 64)));
        for n in (0..64 * 64).filter(|n| (20..44).contains(&(n % 64)) && (20..44).contains(&(n / 64))) {
            assert!((0..=1).contains(&(i32::from(fused[n]) - i32::from(sequential[n]))), "{params:?} at {n}");
            differing += usize::from(fused[n] != sequential[n]);
        }
    }
    assert!(differing > 0);
}

#[test]
fn buffers_that_held_another_image_change_nothing() {
    let (large, small) = (noise(4, 70 * 90), noise(5, 9 * 11));
    let mut scratch = Scratch::default();
    for resampling in ALL {
        let augmenter = Augmenter::new(&Config::default(), 0, 2);
        for sample in 0..100 {
            for (image, size) in [(&large, (70, 90)), (&small, (9, 11))] {
                let params = drawn(&augmenter, (0, sample), size);
                let mut out = vec![1; image.len()];
                Transform::new(&params, resampling, size).apply(image, size, &mut out, &mut scratch);
                assert!(out == applied(&params, resampling, image, size), "{params:?}");
            }
        }
    }
}

/// The images of some samples of class 42, augmented one after the other.
fn batch(augmenter: &Augmenter, samples: impl Iterator<Item = i64>) -> Vec<(i64, Vec<u8>)> {
    let mut scratch = Scratch::default();
    let mut out = vec![0; 64 * 64];
    let mut augmented = |sample: i64| {
        augmenter.apply((42, sample), &noise(sample as u64, 64 * 64), (64, 64), &mut out, &mut scratch);
        (sample, out.clone())
    };
    samples.map(&mut augmented).collect()
}

#[test]
fn a_sample_alone_equals_the_sample_in_any_batch_on_any_thread() {
    let augmenter = Augmenter::new(&Config::default(), 5, 2);
    let forwards = batch(&augmenter, 0..60);
    let mut backwards = batch(&augmenter, (0..60).rev());
    backwards.reverse();
    assert!(forwards == backwards);
    let on_a_thread = std::thread::scope(|scope| {
        let halves = [0..30, 30..60].map(|half| scope.spawn(|| batch(&augmenter, half)));
        halves.map(|half| half.join().unwrap()).concat()
    });
    assert!(forwards == on_a_thread);
    for (sample, pixels) in forwards {
        assert!(batch(&Augmenter::new(&Config::default(), 5, 2), sample..sample + 1)[0].1 == pixels, "{sample}");
    }
}

#[test]
fn epoch_three_alone_equals_epoch_three_after_the_ones_before() {
    let epoch = |epoch| batch(&Augmenter::new(&Config::default(), epoch, 2), 0..40);
    let alone = epoch(3);
    let in_order: Vec<_> = (0..4).map(epoch).collect();
    assert!(alone == in_order[3]);
    assert!((0..3).all(|before| in_order[before].iter().zip(&alone).all(|(a, b)| a.1 != b.1)));
}

#[test]
fn classes_and_indices_name_different_samples() {
    let augmenter = Augmenter::new(&Config::default(), 0, 2);
    let angle = |label, index| drawn(&augmenter, (label, index), (64, 64)).angle.unwrap().to_bits();
    let angles: std::collections::BTreeSet<u64> = (0..50).flat_map(|l| (0..50).map(move |i| angle(l, i))).collect();
    assert_eq!(angles.len(), 2500);
    assert_ne!(
        drawn(&Augmenter::new(&Config { seed: 1, ..Config::default() }, 0, 2), (0, 0), (64, 64))
            .angle
            .unwrap()
            .to_bits(),
        angle(0, 0)
    );
}

#[test]
fn turning_an_operator_off_or_changing_it_changes_nothing_of_the_others() {
    let config = Config::default();
    let erasing = Some(Erasing { apply_probability: 1.0, probability: 0.1, ..Erasing::default() });
    let affine = Some(Affine { scale: [0.5, 0.6], ..Affine::default() });
    let others = [
        Config { rotation: None, ..config.clone() },
        Config { affine: None, ..config.clone() },
        Config { erasing: None, ..config.clone() },
        Config { rotation: Some(Rotation { degrees: 90.0 }), ..config.clone() },
        Config { affine, ..config.clone() },
        Config { erasing, ..config.clone() },
        Config { epochs: 30, compose: Compose::Fused, interpolation: Interpolation::Bilinear, ..config.clone() },
    ];
    let plain = Augmenter::new(&config, 2, 2);
    for other in others {
        let augmenter = Augmenter::new(&other, 2, 2);
        for sample in 0..100 {
            let (a, b) = (drawn(&plain, (9, sample), (64, 64)), drawn(&augmenter, (9, sample), (64, 64)));
            assert_eq!(a.angle == b.angle, other.rotation == config.rotation, "{other:?}");
            assert_eq!(a.affine == b.affine, other.affine == config.affine, "{other:?}");
            if other.erasing == config.erasing {
                assert_eq!(a.erase, b.erase);
            }
        }
    }
}

/// Slots of 33 columns begin at columns 0, 33 and 67, so that column 66 belongs to none.
#[test]
fn each_slot_is_augmented_as_an_image_of_its_own() {
    let (height, width, slots) = (31, 101, [0..33, 33..66, 67..100]);
    let image = noise(8, height * width);
    let cut = |image: &[u8], slot: &std::ops::Range<usize>| -> Vec<u8> {
        image.chunks_exact(width).flat_map(|line| line[slot.clone()].to_vec()).collect()
    };
    for resampling in ALL {
        let Resampling { interpolation, compose } = resampling;
        let config = Config { by: By::Slot, interpolation, compose, ..Config::default() };
        let augmenter = Augmenter::new(&config, 4, 3);
        for sample in 0..50 {
            let mut out = vec![170; image.len()];
            let (params, _) = augmenter.apply((3, sample), &image, (height, width), &mut out, &mut Scratch::default());
            assert_eq!(params.len(), 3);
            for (slot, params) in slots.iter().zip(&params) {
                assert!(cut(&out, slot) == applied(params, resampling, &cut(&image, slot), (height, 33)), "{params:?}");
            }
            assert!([66, 100].iter().all(|&x| (0..height).all(|y| out[y * width + x] == image[y * width + x])));
        }
    }
}

#[test]
fn every_slot_has_draws_of_its_own_which_do_not_depend_on_the_number_of_slots() {
    let config = Config { by: By::Slot, ..Config::default() };
    let [two, three] = [2, 3].map(|digits| Augmenter::new(&config, 0, digits));
    for sample in 0..100 {
        let (two, three) = (two.params((1, sample), (64, 64)), three.params((1, sample), (64, 96)));
        assert_eq!(two, three[..2]);
        assert!(three[0].angle != three[1].angle && three[1].angle != three[2].angle);
        assert_ne!(two[0].angle, drawn(&Augmenter::new(&Config::default(), 0, 2), (1, sample), (64, 64)).angle);
    }
}

#[test]
fn settings_that_came_later_stand_in_keys_and_shards_only_if_they_are_used() {
    let names = |config: &Config| settings(config).keys().cloned().collect::<Vec<_>>();
    let before = ["epochs", "seed", "rotation", "affine", "erasing", "interpolation", "compose"];
    assert_eq!(names(&Config::default()), before);
    let used = Config { by: By::Slot, exchange: Some(exchange::Pairs::Free), ..Config::default() };
    assert_eq!(names(&used).len(), before.len() + 2);
    assert!(recipe(&used, 3).contains(r#""by":"slot","exchange":"free""#), "{}", recipe(&used, 3));
}

#[test]
fn bad_parameters_are_refused_by_name() {
    let rotation = |degrees| Config { rotation: Some(Rotation { degrees }), ..Config::default() };
    let affine = |change: fn(&mut Affine)| {
        let mut affine = Affine::default();
        change(&mut affine);
        Config { affine: Some(affine), ..Config::default() }
    };
    let erasing = |change: fn(&mut Erasing)| {
        let mut erasing = Erasing::default();
        change(&mut erasing);
        Config { erasing: Some(erasing), ..Config::default() }
    };
    let (nan, infinity) = (f64::NAN, f64::INFINITY);
    let refused = [
        (rotation(-1.0), "rotation.degrees`: found -1; expected 0 to 360"),
        (rotation(361.0), "rotation.degrees`: found 361; expected 0 to 360"),
        (rotation(nan), "rotation.degrees`: found NaN; expected 0 to 360"),
        (rotation(infinity), "rotation.degrees`: found inf; expected 0 to 360"),
        (affine(|a| a.translate = [-0.1, 0.1]), "affine.translate`: found -0.1; expected 0 to 1"),
        (affine(|a| a.translate = [0.1, 1.5]), "affine.translate`: found 1.5; expected 0 to 1"),
        (affine(|a| a.translate = [0.1, f64::NAN]), "affine.translate`: found NaN; expected 0 to 1"),
        (affine(|a| a.scale = [0.0, 1.0]), "affine.scale`: found [0, 1]; expected SCALE"),
        (affine(|a| a.scale = [1.1, 0.9]), "affine.scale`: found [1.1, 0.9]; expected SCALE"),
        (affine(|a| a.scale = [-1.0, 1.0]), "affine.scale`: found [-1, 1]; expected SCALE"),
        (affine(|a| a.scale = [f64::NAN, 1.0]), "affine.scale`: found [NaN, 1]; expected SCALE"),
        (affine(|a| a.scale = [1.0, f64::INFINITY]), "affine.scale`: found [1, inf]; expected SCALE"),
        (affine(|a| a.shear = 90.0), "affine.shear`: found 90; expected 0 to 89"),
        (affine(|a| a.shear = -10.0), "affine.shear`: found -10; expected 0 to 89"),
        (affine(|a| a.shear = f64::NAN), "affine.shear`: found NaN; expected 0 to 89"),
        (erasing(|e| e.apply_probability = 1.1), "erasing.apply_probability`: found 1.1; expected 0 to 1"),
        (erasing(|e| e.apply_probability = f64::NAN), "erasing.apply_probability`: found NaN; expected 0 to 1"),
        (erasing(|e| e.probability = -0.1), "erasing.probability`: found -0.1; expected 0 to 1"),
        (erasing(|e| e.scale = [0.1, 0.02]), "erasing.scale`: found [0.1, 0.02]; expected SHARE"),
        (erasing(|e| e.scale = [0.1, 1.5]), "erasing.scale`: found [0.1, 1.5]; expected SHARE"),
        (erasing(|e| e.scale = [-0.1, 0.5]), "erasing.scale`: found [-0.1, 0.5]; expected SHARE"),
        (erasing(|e| e.ratio = [0.0, 3.3]), "erasing.ratio`: found [0, 3.3]; expected SCALE"),
        (erasing(|e| e.ratio = [-0.3, 3.3]), "erasing.ratio`: found [-0.3, 3.3]; expected SCALE"),
        (erasing(|e| e.ratio = [3.3, 0.3]), "erasing.ratio`: found [3.3, 0.3]; expected SCALE"),
        (erasing(|e| e.ratio = [0.3, f64::NAN]), "erasing.ratio`: found [0.3, NaN]; expected SCALE"),
    ];
    for (config, message) in refused {
        let message = message.replace("SCALE", "two numbers in ascending order, 0.01 to 100");
        let message = message.replace("SHARE", "two numbers in ascending order, 0 to 1");
        assert_eq!(config.validate().unwrap_err().to_string(), format!("`augment.{message}"));
    }
}

#[test]
fn the_limits_of_what_is_accepted_can_be_drawn_and_applied() {
    let image = noise(6, 28 * 28);
    let erasing = |scale, ratio| Some(Erasing { apply_probability: 1.0, probability: 1.0, scale, ratio, value: 255 });
    let configs = [
        Config {
            rotation: Some(Rotation { degrees: 360.0 }),
            affine: Some(Affine { translate: [1.0, 1.0], scale: [0.01, 100.0], shear: 89.0 }),
            erasing: erasing([0.0, 1.0], [0.01, 100.0]),
            ..Config::default()
        },
        Config {
            rotation: Some(Rotation { degrees: 0.0 }),
            affine: Some(Affine { translate: [0.0, 0.0], scale: [1.0, 1.0], shear: 0.0 }),
            erasing: erasing([1.0, 1.0], [1.0, 1.0]),
            ..Config::default()
        },
    ];
    for config in &configs {
        config.validate().unwrap();
        for (resampling, sample) in ALL.iter().flat_map(|resampling| (0..300).map(move |n| (resampling, n))) {
            let params = drawn(&Augmenter::new(config, 0, 2), (0, sample), (28, 28));
            applied(&params, *resampling, &image, (28, 28));
        }
    }
    // a rectangle as large as the image is never drawn, so the second configuration changes nothing
    let params = drawn(&Augmenter::new(&configs[1], 0, 2), (0, 0), (28, 28));
    assert!(params.erase.is_none() && applied(&params, PLAIN, &image, (28, 28)) == image);
}

fn any_config() -> impl Strategy<Value = Config> {
    let pair = |low: f64, high: f64| (low..high, low..high).prop_map(|(a, b): (f64, f64)| [a.min(b), a.max(b)]);
    let rotation = (0.0..360.0).prop_map(|degrees| Rotation { degrees });
    let affine = ([0.0..1.0, 0.0..1.0], pair(0.1, 5.0), 0.0..80.0).prop_map(|(translate, scale, shear)| Affine {
        translate,
        scale,
        shear,
    });
    let erasing = (0.5..=1.0, 0.5..=1.0, pair(0.0, 1.0), pair(0.1, 10.0), any::<u8>()).prop_map(
        |(apply_probability, probability, scale, ratio, value)| Erasing {
            apply_probability,
            probability,
            scale,
            ratio,
            value,
        },
    );
    let operators = (prop::option::of(rotation), prop::option::of(affine), prop::option::of(erasing));
    (operators, 0..ALL.len(), any::<u64>(), any::<bool>()).prop_map(
        |((rotation, affine, erasing), way, seed, by_slot)| {
            let (Resampling { interpolation, compose }, by) = (ALL[way], if by_slot { By::Slot } else { By::Image });
            Config { epochs: 1, seed, by, exchange: None, rotation, affine, erasing, interpolation, compose }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_drawn_lies_within_what_is_asked_for(
        config in any_config(), (height, width) in (1..70_usize, 2..70_usize), label: u32, epoch in 0..9_usize,
    ) {
        config.validate().unwrap();
        let augmenter = Augmenter::new(&config, epoch, 2);
        let drawn: Vec<Params> =
            (0..20).flat_map(|index| augmenter.params((label.into(), index), (height, width))).collect();
        let width = if config.by == By::Slot { width / 2 } else { width };
        for Params { angle, affine, erase } in drawn {
            prop_assert_eq!((angle.is_some(), affine.is_some()), (config.rotation.is_some(), config.affine.is_some()));
            if let (Some(angle), Some(asked)) = (angle, &config.rotation) {
                prop_assert!(angle.abs() <= asked.degrees);
            }
            if let (Some(drawn), Some(asked)) = (affine, &config.affine) {
                let most = [asked.translate[0] * width as f64, asked.translate[1] * height as f64];
                prop_assert!(drawn.translate.iter().zip(most).all(|(&t, most)| f64::from(t).abs() <= most + 0.5));
                prop_assert!((asked.scale[0]..=asked.scale[1]).contains(&drawn.scale));
                prop_assert!(drawn.shear[0].abs() <= asked.shear && drawn.shear[1] == 0.0);
            }
            if let Some(drawn) = erase {
                prop_assert!(drawn.top + drawn.height <= height && drawn.left + drawn.width <= width);
                prop_assert!(config.erasing.as_ref().is_some_and(|asked| asked.value == drawn.value));
            }
        }
    }

    #[test]
    fn a_samples_pixels_depend_on_no_sample_before_it(
        config in any_config(), (height, width) in (2..40_usize, 2..40_usize), label: u32,
    ) {
        // two alternating sizes, so that the buffers held a longer image before
        let size = |index: usize| if index.is_multiple_of(2) { (height, width) } else { (width + 3, height) };
        let area = |index: usize| size(index).0 * size(index).1;
        let pixels: Vec<Vec<u8>> = (0..6).map(|index| noise(index as u64, area(index))).collect();
        let augment = |index: usize, scratch: &mut Scratch| {
            let mut out = vec![170; area(index)];
            let sample = (label.into(), index as i64);
            Augmenter::new(&config, 3, 2).apply(sample, &pixels[index], size(index), &mut out, scratch);
            out
        };
        let mut kept = Scratch::default();
        for index in [5, 0, 3, 3, 1, 4, 2] {
            prop_assert!(augment(index, &mut kept) == augment(index, &mut Scratch::default()), "{}", index);
        }
        if config.rotation.is_none() && config.affine.is_none() && config.erasing.is_none() {
            prop_assert!(augment(0, &mut kept) == pixels[0]);
        }
    }
}
