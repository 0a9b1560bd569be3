# latexmk, called here, builds the report as in report/, named or not.
do './report/.latexmkrc';
@default_files = ('report/report.tex');
$do_cd = 1;
