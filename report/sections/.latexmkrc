# latexmk, called here, builds the report: its parts are no documents of their own.
do '../.latexmkrc';
@default_files = ('../report.tex');
$do_cd = 1;
