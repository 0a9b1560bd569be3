# Read by `vanishing report`, and by latexmk when it is called in report/. SOURCE_DATE_EPOCH and
# FORCE_SOURCE_DATE make the same inputs give the same PDF bytes, wherever and whenever they are compiled.
$ENV{'SOURCE_DATE_EPOCH'} = '0';
$ENV{'FORCE_SOURCE_DATE'} = '1';
$ENV{'TZ'} = 'UTC';
@default_files = ('report.tex');
$out_dir = 'build';
$pdf_mode = 1;
$bibtex_use = 2;
$pdflatex = 'pdflatex -interaction=nonstopmode -halt-on-error -file-line-error %O %S';
