@echo off
rem Installs Fiducial the first time, then starts it: double-click. Needs no PowerShell.
setlocal
cd /d "%~dp0"
for %%V in (3.11 3.12 3.13 3.14) do (
  py -%%V -c "" >nul 2>nul && (
    py -%%V start.py %*
    goto ended
  )
)
python -c "import sys; sys.exit(sys.version_info < (3, 7))" >nul 2>nul && (
  python start.py %*
  goto ended
)
echo Fiducial needs Python 3.11, 3.12, 3.13 or 3.14 with 64 bits, and this computer has none.
echo Install it from https://www.python.org/downloads/windows/ or with
echo     winget install Python.Python.3.11
echo and double-click start.bat again.
pause
exit /b 2
:ended
set code=%errorlevel%
if not %code%==0 pause
exit /b %code%
