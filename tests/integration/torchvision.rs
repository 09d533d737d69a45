//! Compares augmented pixels with those of torchvision on Pillow images, case by case: `tests/fixtures/augment*`.

use std::path::PathBuf;

use multidigit::augment::apply::{Resampling, Scratch, Transform};
use multidigit::augment::draw::{AffineParams, EraseParams, Params};
use multidigit::augment::{Compose, Interpolation};
use safetensors::SafeTensors;
use serde_json::Value;

/// An image and the result of torchvision.
pub struct Case {
    pub params: Params,
    pub resampling: Resampling,
    pub input: Vec<u8>,
    pub expected: Vec<u8>,
}

/// The cases of a fixture with the size of their images. The fixture is named without its extension.
pub fn cases(stem: &str) -> (Vec<Case>, (usize, usize)) {
    let bytes = std::fs::read(format!("{stem}.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (inputs, expected) = (tensors.tensor("inputs").unwrap(), tensors.tensor("expected").unwrap());
    // JSON is parsed as YAML, because serde_json's numbers can differ in the last bit, which
    // changes bilinear grey values
    let about: Value = serde_saphyr::from_str(&std::fs::read_to_string(format!("{stem}.json")).unwrap()).unwrap();
    let cases = about["cases"].as_array().unwrap();
    let &[count, height, width] = expected.shape() else { panic!("images have two sides") };
    assert_eq!((cases.len(), &inputs.shape()[1..]), (count, &[height, width][..]));
    let interpolation: Interpolation = serde_json::from_value(about["interpolation"].clone()).unwrap_or_default();
    let case = |(case, expected): (&Value, &[u8])| {
        let (params, compose) = parameters(case);
        let image = case["image"].as_i64().unwrap() as usize;
        let input = inputs.data()[image * height * width..][..height * width].to_vec();
        Case { params, resampling: Resampling { interpolation, compose }, input, expected: expected.to_vec() }
    };
    (cases.iter().zip(expected.data().chunks_exact(height * width)).map(case).collect(), (height, width))
}

fn parameters(case: &Value) -> (Params, Compose) {
    let (int, float) = (|v: &Value| v.as_i64().unwrap(), |v: &Value| v.as_f64().unwrap());
    let affine = || AffineParams {
        translate: [0, 1].map(|i| int(&case["translate"][i]) as i32),
        scale: float(&case["scale"]),
        shear: [0, 1].map(|i| float(&case["shear"][i])),
    };
    let erase = |case: &Value| {
        let [top, left, height, width] = ["top", "left", "height", "width"].map(|key| int(&case[key]) as usize);
        EraseParams { top, left, height, width, value: int(&case["value"]) as u8 }
    };
    let angle = || Some(float(&case["angle"]));
    let both = || Params { angle: angle(), affine: Some(affine()), erase: None };
    match case["op"].as_str().unwrap() {
        "rotate" => (Params { angle: angle(), ..Params::default() }, Compose::Sequential),
        "affine" => (Params { affine: Some(affine()), ..Params::default() }, Compose::Sequential),
        "erase" => (Params { erase: Some(erase(case)), ..Params::default() }, Compose::Sequential),
        "recipe" => (Params { erase: Some(erase(&case["erase"])), ..both() }, Compose::Sequential),
        "fused" => (both(), Compose::Fused),
        other => panic!("no such operator: {other}"),
    }
}

/// The fixtures of this project, with the minimum number of cases of each.
pub fn own_fixtures() -> [(String, usize); 3] {
    let stem = |name: &str| format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    [(stem("augment"), 1), (stem("augment_extreme"), 200), (stem("augment_bilinear"), 200)]
}

fn check(stem: &str) -> usize {
    let (cases, size) = cases(stem);
    for (number, Case { params, resampling, input, expected }) in cases.iter().enumerate() {
        let mut out = vec![170; input.len()];
        Transform::new(params, *resampling, size).apply(input, size, &mut out, &mut Scratch::default());
        assert!(out == *expected, "{stem}, case {number}: {params:?}, {resampling:?}");
    }
    cases.len()
}

/// `augment` is made by tests/reference/make_augment_fixtures.py. make_augment_extremes.py makes `augment_extreme` (29
/// 37 1 200 nearest: angles of several turns, scales of 0.01 and 100, shears of 89 degrees, images that are not square,
/// whole recipes, and both maps as one) and `augment_bilinear` (24 33 2 200 bilinear).
#[test]
fn every_case_equals_torchvision_on_pillow() {
    for (stem, least) in own_fixtures() {
        assert!(check(&stem) >= least);
    }
    // another fixture of either form, without its extension
    if let Some(stem) = std::env::var_os("MULTIDIGIT_AUGMENT_FIXTURE").map(PathBuf::from) {
        assert!(check(stem.to_str().unwrap()) > 0);
    }
}
