//! Documents that the program writes for people and for other programs: Markdown and HTML from
//! templates, CSV from rows.
//!
//! A template is a file beside the code that fills it in.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior};
use serde::Serialize;

/// An environment for HTML pages, without templates. Values are escaped when they are written.
pub fn html() -> Result<Environment<'static>, Error> {
    environment(AutoEscape::Html, false)
}

/// Renders a Markdown template with its values. Values are not escaped.
///
/// # Panics
/// If the template is invalid, or if it names a value that does not exist.
pub fn markdown(template: &str, values: &impl Serialize) -> String {
    render(AutoEscape::None, template, values)
}

/// Renders the template of an HTML page with its values. Values are escaped.
///
/// # Panics
/// If the template is invalid, or if it names a value that does not exist.
pub fn page(template: &str, values: &impl Serialize) -> String {
    render(AutoEscape::Html, template, values)
}

#[expect(clippy::expect_used, reason = "both templates and values are this program's own, and tests render them")]
fn render(escape: AutoEscape, template: &str, values: &impl Serialize) -> String {
    let render = || environment(escape, true)?.render_str(template, Serde(values));
    render().expect("the template fits its values")
}

/// Formats rows of fields as CSV. Fields are quoted if necessary.
#[expect(clippy::expect_used, reason = "a vector takes every write, and texts with commas between them are a text")]
pub fn csv<F: AsRef<str>>(rows: impl IntoIterator<Item = impl IntoIterator<Item = F>>) -> String {
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    for row in rows {
        let fields = row.into_iter().map(|field| field.as_ref().as_bytes().to_vec());
        writer.write_record(fields).expect("a vector takes every write");
    }
    String::from_utf8(writer.into_inner().expect("a vector takes every write")).expect("texts with commas are a text")
}

/// An environment in which it is an error if a template names an unknown value, and in which a tag alone on its line
/// leaves no empty line in the document.
fn environment(escape: AutoEscape, keep_trailing_newline: bool) -> Result<Environment<'static>, Error> {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(keep_trailing_newline);
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(move |_| escape.clone());
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax.build()?);
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn markdown_is_written_as_it_is_and_tags_leave_no_lines() {
        let template = "# {{ title }}\n{% if title %}\nyes\n{% endif %}\n\nend\n";
        let values = BTreeMap::from([("title", "a < b & `c`")]);
        assert_eq!(markdown(template, &values), "# a < b & `c`\nyes\n\nend\n");
    }

    #[test]
    fn the_values_of_a_page_are_escaped() {
        let values = BTreeMap::from([("title", "a < b & `c`")]);
        assert_eq!(page("<h1>{{ title }}</h1>\n", &values), "<h1>a &lt; b &amp; `c`</h1>\n");
    }

    #[test]
    fn fields_are_quoted_where_they_have_to_be() {
        let rows = [vec!["run", "loss"], vec!["a,\"b\"", ""], vec!["two\nlines", "0.5"]];
        assert_eq!(csv(rows), "run,loss\n\"a,\"\"b\"\"\",\n\"two\nlines\",0.5\n");
    }

    #[test]
    #[should_panic(expected = "UndefinedError")]
    fn a_value_that_is_not_there_is_an_error() {
        markdown("{{ title }}", &BTreeMap::from([("name", "x")]));
    }
}
